/**
 * From the pixels of a picture to the input of a detector: what torchvision's `GeneralizedRCNNTransform` does.
 *
 * Pixels are normalised, scaled by straight lines between them (no smoothing, as in PyTorch), and framed with zeros on
 * the right and below.
 */

import type { DetectorSettings } from "./detector_settings.js";
import type { Tensor } from "./engine.js";
import { SternaError } from "./errors.js";
import { checkPixels, type Pixels } from "./preprocessing.js";

/** What a detector looks at. */
export interface DetectorInput {
  /** `(1, 3, height, width)`. */
  readonly tensor: Tensor;
  /** Of the scaled picture, in pixels; the rest of the input is its frame. */
  readonly height: number;
  readonly width: number;
}

/** For each output pixel of an axis: the two between which it lies, and how far from the first one. */
interface Line {
  readonly first: Int32Array;
  readonly second: Int32Array;
  readonly part: Float32Array;
}

const CHANNELS = 3;
const RGBA = 4;
const WHITE = 255;

/**
 * Scale a picture for a detector.
 *
 * @param image of any size.
 * @throws SternaError the picture is malformed, or so long and thin that nothing is left of it.
 */
export function prepareDetectorInput(image: Pixels, settings: DetectorSettings): DetectorInput {
  checkPixels(image);
  const scale = Math.min(
    settings.minSize / Math.min(image.width, image.height),
    settings.maxSize / Math.max(image.width, image.height),
  );
  const height = Math.floor(image.height * scale);
  const width = Math.floor(image.width * scale);
  if (height === 0 || width === 0) {
    throw new SternaError(
      `a picture of ${image.width}x${image.height} pixels is too long and thin: nothing is left of its short side ` +
        `where the long one has ${settings.maxSize} pixels`,
    );
  }
  const rows = framed(height, settings.sizeDivisible);
  const columns = framed(width, settings.sizeDivisible);
  const data = new Float32Array(CHANNELS * rows * columns);
  const down = makeLine(image.height, height);
  const across = makeLine(image.width, width);
  for (let channel = 0; channel < CHANNELS; ++channel) {
    const plane = normalised(image, channel, settings.imageMean[channel]!, settings.imageStd[channel]!);
    for (let y = 0; y < height; ++y) {
      const above = down.first[y]! * image.width;
      const below = down.second[y]! * image.width;
      const lower = down.part[y]!;
      const to = (channel * rows + y) * columns;
      for (let x = 0; x < width; ++x) {
        const left = across.first[x]!;
        const right = across.second[x]!;
        const part = across.part[x]!;
        const top = plane[above + left]! * (1 - part) + plane[above + right]! * part;
        const bottom = plane[below + left]! * (1 - part) + plane[below + right]! * part;
        data[to + x] = top * (1 - lower) + bottom * lower;
      }
    }
  }
  return { tensor: { data, shape: [1, CHANNELS, rows, columns] }, height, width };
}

function framed(side: number, divisor: number): number {
  return Math.ceil(side / divisor) * divisor;
}

function makeLine(size: number, scaled: number): Line {
  const first = new Int32Array(scaled);
  const second = new Int32Array(scaled);
  const part = new Float32Array(scaled);
  // As PyTorch, in float32.
  const step = Math.fround(size / scaled);
  for (let at = 0; at < scaled; ++at) {
    const place = Math.max(Math.fround(Math.fround(step * (at + 0.5)) - 0.5), 0);
    first[at] = Math.min(Math.trunc(place), size - 1);
    second[at] = Math.min(first[at]! + 1, size - 1);
    part[at] = Math.min(Math.max(place - first[at]!, 0), 1);
  }
  return { first, second, part };
}

/** A channel as numbers `(pixel / 255 - mean) / std`; there are but 256 of them. */
function normalised(image: Pixels, channel: number, mean: number, std: number): Float32Array {
  const numbers = Float32Array.from({ length: WHITE + 1 }, (_, pixel) => {
    const centred = Math.fround(Math.fround(pixel / WHITE) - Math.fround(mean));
    return centred / Math.fround(std);
  });
  const plane = new Float32Array(image.width * image.height);
  for (let pixel = 0, at = channel; pixel < plane.length; ++pixel, at += RGBA) plane[pixel] = numbers[image.data[at]!]!;
  return plane;
}
