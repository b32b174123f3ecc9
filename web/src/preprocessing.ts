/**
 * From the pixels of a picture to the input of a classifier: what `prepare_picture` of `sterna/pictures.py` does, to the bit.
 *
 * The resampling is that of Pillow: a triangle as wide as the pixels that fall into one, along rows and along columns, in
 * fixed point with bytes in between. Only what is left after the centre is cut is computed.
 */

import { SternaError } from "./errors.js";
import { type Metadata, type Preprocessing, readPreprocessing } from "./metadata.js";

/** Pixels of four bytes (red, green, blue, alpha), row after row; an `ImageData` is one. Alpha is not looked at. */
export interface Pixels {
  readonly data: Uint8ClampedArray | Uint8Array;
  readonly width: number;
  readonly height: number;
}

/** For each output pixel of one direction: where its inputs begin, how many they are, and their weights. */
interface Filter {
  readonly first: Int32Array;
  readonly count: Int32Array;
  readonly weights: Int32Array;
  /** Places for the weights of one pixel. */
  readonly taps: number;
}

/** A part of an axis. */
interface Span {
  readonly begin: number;
  readonly end: number;
}

const RGBA = 4;
const WHITE = 255;
// Weights are in units of 2^-22: eight bits of a pixel and two to spare fill 32.
const WEIGHT_BITS = 22;
const WEIGHT_ONE = 1 << WEIGHT_BITS;
const HALF = 1 << (WEIGHT_BITS - 1);
// Luma of ITU-R 601 in units of 2^-16.
const LUMA = [19595, 38470, 7471] as const;
const LUMA_BITS = 16;
// As in Python, so that a picture is refused by both or by neither.
const MOST_SCALED_PIXELS = 2 ** 27;

/**
 * Turn a picture into the input of a classifier.
 *
 * @param image of any size.
 * @param metadata of the network's file.
 * @returns float32 `(channels, height, width)`.
 * @throws SternaError the metadata do not say how, the picture is malformed, or so long and thin that it cannot be scaled.
 */
export function preprocess(image: Pixels, metadata: Metadata): Float32Array {
  return preparePicture(image, readPreprocessing(metadata));
}

/** As `preprocess`, for what has been read from the metadata before. */
export function preparePicture(image: Pixels, preprocessing: Preprocessing): Float32Array {
  const { width, height } = image;
  checkPixels(image);
  const [scaledWidth, scaledHeight] = scaledSize(width, height, preprocessing);
  const left = centre(scaledWidth - preprocessing.width);
  const top = centre(scaledHeight - preprocessing.height);
  const columns = { begin: Math.max(left, 0), end: Math.min(left + preprocessing.width, scaledWidth) };
  const rows = { begin: Math.max(top, 0), end: Math.min(top + preprocessing.height, scaledHeight) };
  const { channels } = preprocessing;
  const { buffer, byteOffset, byteLength } = image.data;
  const bytes = new Uint8Array(buffer, byteOffset, byteLength);
  const source = channels === 1 ? grey(bytes) : bytes;
  const stride = channels === 1 ? 1 : RGBA;
  const horizontal = makeFilter(width, scaledWidth, columns);
  const vertical = makeFilter(height, scaledHeight, rows);
  // Bytes in between are rounded, so that the order can be seen; this is the one of Pillow since 13.
  const columnsFirst = scaledHeight < height && height - scaledHeight > 2 * (width - scaledWidth);
  let scaled: Uint8Array;
  if (columnsFirst) {
    const between = scaleColumns(source, width * stride, 0, vertical);
    scaled = scaleRows(between, stride, width, channels, { begin: 0, end: rows.end - rows.begin }, horizontal);
  } else {
    const needed = sources(vertical);
    const between = scaleRows(source, stride, width, channels, needed, horizontal);
    scaled = scaleColumns(between, (columns.end - columns.begin) * channels, needed.begin, vertical);
  }
  return normalize(scaled, preprocessing, columns.begin - left, rows.begin - top, columns.end - columns.begin);
}

/** @throws SternaError sides and bytes do not fit together. */
export function checkPixels({ width, height, data }: Pixels): void {
  if (isCount(width) && isCount(height) && data.length === width * height * RGBA) return;
  throw new SternaError(
    `a picture must have width x height pixels of ${RGBA} bytes, got ${width}x${height} and ${data.length} bytes`,
  );
}

function isCount(value: number): boolean {
  return Number.isInteger(value) && value >= 1;
}

function scaledSize(width: number, height: number, preprocessing: Preprocessing): [number, number] {
  const side = preprocessing.resize;
  if (side === null) return [preprocessing.width, preprocessing.height];
  const short = Math.min(width, height);
  const long = Math.max(width, height);
  const pixels = side * Math.floor((side * long) / short);
  if (pixels > MOST_SCALED_PIXELS) {
    throw new SternaError(
      `a picture of ${width}x${height} pixels is too long and thin: with a short side of ${side} pixels ` +
        `it has ${pixels.toLocaleString("en")} pixels, ${MOST_SCALED_PIXELS.toLocaleString("en")} are allowed`,
    );
  }
  const other = Math.floor((side * long) / short);
  return width <= height ? [side, other] : [other, side];
}

/** Where the centre begins, with `excess` pixels to cut off both sides; a negative excess is black to add. */
function centre(excess: number): number {
  // What cannot be halved: a cut is rounded to even numbers, an edge of black is thinner on the left and above.
  return excess >= 0 ? roundHalfToEven(excess / 2) : Math.trunc(excess / 2);
}

function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}

function grey(rgba: Uint8Array): Uint8Array {
  const result = new Uint8Array(rgba.length / RGBA);
  for (let pixel = 0, at = 0; pixel < result.length; ++pixel, at += RGBA) {
    const luma = rgba[at]! * LUMA[0] + rgba[at + 1]! * LUMA[1] + rgba[at + 2]! * LUMA[2];
    result[pixel] = (luma + (1 << (LUMA_BITS - 1))) >> LUMA_BITS;
  }
  return result;
}

/** The weights of an axis of `size` pixels that is scaled to `scaled`, for the pixels of a span of the result. */
function makeFilter(size: number, scaled: number, span: Span): Filter {
  const scale = size / scaled;
  const reach = Math.max(scale, 1);
  const narrowing = 1 / reach;
  const taps = Math.ceil(reach) * 2 + 1;
  const length = span.end - span.begin;
  const first = new Int32Array(length);
  const count = new Int32Array(length);
  const weights = new Int32Array(length * taps);
  const real = new Float64Array(taps);
  for (let at = 0; at < length; ++at) {
    const middle = (span.begin + at + 0.5) * scale;
    const begin = Math.max(Math.trunc(middle - reach + 0.5), 0);
    const end = Math.min(Math.trunc(middle + reach + 0.5), size);
    let total = 0;
    for (let tap = 0; tap < end - begin; ++tap) {
      const distance = Math.abs((tap + begin - middle + 0.5) * narrowing);
      const weight = distance < 1 ? 1 - distance : 0;
      real[tap] = weight;
      total += weight;
    }
    for (let tap = 0; tap < end - begin; ++tap) {
      weights[at * taps + tap] = Math.trunc(0.5 + (total === 0 ? real[tap]! : real[tap]! / total) * WEIGHT_ONE);
    }
    first[at] = begin;
    count[at] = end - begin;
  }
  return { first, count, weights, taps };
}

/** The inputs of all pixels of a filter: its windows move on with the pixels, so that the last one ends last. */
function sources({ first, count }: Filter): Span {
  const last = first.length - 1;
  return { begin: first[0]!, end: first[last]! + count[last]! };
}

/** Scale along rows; pixels are `stride` bytes apart, and `channels` bytes in the result. */
function scaleRows(
  source: Uint8Array,
  stride: number,
  width: number,
  channels: number,
  rows: Span,
  { first, count, weights, taps }: Filter,
): Uint8Array {
  const columns = first.length;
  const result = new Uint8Array((rows.end - rows.begin) * columns * channels);
  let out = 0;
  for (let row = rows.begin; row < rows.end; ++row) {
    for (let column = 0; column < columns; ++column) {
      const start = (row * width + first[column]!) * stride;
      const from = column * taps;
      const to = from + count[column]!;
      if (channels === 1) {
        let sum = HALF;
        for (let tap = from, at = start; tap < to; ++tap, at += stride) {
          sum = (sum + Math.imul(source[at]!, weights[tap]!)) | 0;
        }
        result[out++] = toByte(sum);
      } else {
        let red = HALF;
        let green = HALF;
        let blue = HALF;
        for (let tap = from, at = start; tap < to; ++tap, at += stride) {
          const weight = weights[tap]!;
          red = (red + Math.imul(source[at]!, weight)) | 0;
          green = (green + Math.imul(source[at + 1]!, weight)) | 0;
          blue = (blue + Math.imul(source[at + 2]!, weight)) | 0;
        }
        result[out++] = toByte(red);
        result[out++] = toByte(green);
        result[out++] = toByte(blue);
      }
    }
  }
  return result;
}

/** Scale along columns; rows are `pitch` bytes, and those of the source begin with `firstRow`. */
function scaleColumns(source: Uint8Array, pitch: number, firstRow: number, filter: Filter): Uint8Array {
  const { first, count, weights, taps } = filter;
  const rows = first.length;
  const result = new Uint8Array(rows * pitch);
  const sums = new Int32Array(pitch);
  for (let row = 0; row < rows; ++row) {
    sums.fill(HALF);
    for (let tap = 0; tap < count[row]!; ++tap) {
      const weight = weights[row * taps + tap]!;
      const start = (first[row]! + tap - firstRow) * pitch;
      for (let at = 0; at < pitch; ++at) sums[at] = (sums[at]! + Math.imul(source[start + at]!, weight)) | 0;
    }
    for (let at = 0; at < pitch; ++at) result[row * pitch + at] = toByte(sums[at]!);
  }
  return result;
}

/** The byte of a sum; rounded weights may add up to a little more than one. */
function toByte(sum: number): number {
  const value = sum >> WEIGHT_BITS;
  return value > WHITE ? WHITE : value;
}

/** Lay `columns` pixels wide rows into the input at `(left, top)`; what they leave free is black. */
function normalize(
  pixels: Uint8Array,
  preprocessing: Preprocessing,
  left: number,
  top: number,
  columns: number,
): Float32Array {
  const { channels, height, width, pixelMaximum, mean, std } = preprocessing;
  const result = new Float32Array(channels * height * width);
  const rows = pixels.length / (columns * channels);
  const values = new Float32Array(WHITE + 1);
  for (let channel = 0; channel < channels; ++channel) {
    const shift = Math.fround(mean[channel]!);
    const divisor = Math.fround(std[channel]!);
    for (let pixel = 0; pixel <= WHITE; ++pixel) {
      const level = pixelMaximum === WHITE ? pixel : roundHalfToEven(pixel * (pixelMaximum / WHITE));
      values[pixel] = Math.fround(Math.fround(level / pixelMaximum) - shift) / divisor;
    }
    const plane = result.subarray(channel * height * width, (channel + 1) * height * width);
    plane.fill(values[0]!);
    for (let row = 0; row < rows; ++row) {
      const out = (top + row) * width + left;
      const start = row * columns * channels + channel;
      for (let column = 0; column < columns; ++column) plane[out + column] = values[pixels[start + column * channels]!]!;
    }
  }
  return result;
}
