/**
 * From what a RetinaNet answers to boxes: anchors, decoding, thresholds and suppression, as torchvision's `RetinaNet` does it.
 *
 * Lin et al.: Focal loss for dense object detection, arXiv 1708.02002.
 */

import type { Corners, DetectorSettings } from "./detector_settings.js";
import type { Tensor } from "./engine.js";
import { SternaError } from "./errors.js";

/** What the heads say of a level of the pyramid, of one picture. */
export interface LevelAnswer {
  /** `(1, anchors x classes, height, width)`. */
  readonly logits: Tensor;
  /** `(1, anchors x 4, height, width)`. */
  readonly regression: Tensor;
}

/** A box that may be one of the answer. */
export interface Candidate {
  readonly corners: Corners;
  readonly score: number;
  /** Of its class. */
  readonly index: number;
}

interface Size {
  readonly height: number;
  readonly width: number;
}

/** A place in the logits of a level that is above the threshold. */
interface Found {
  readonly logit: number;
  /** Number of its anchor times classes, plus its class. */
  readonly channel: number;
  readonly pixel: number;
}

const NUMBERS = 4; // of a box
// Scores are compared as logits first; what is so near that rounding could matter is looked at.
const MARGIN = 1e-3;

/**
 * The boxes in one picture, best first.
 *
 * @param levels of the pyramid, in the order of the anchors.
 * @param input the size of the network's input.
 * @param picture the size of the scaled picture in it; boxes end there.
 * @returns boxes in pixels of the input.
 * @throws SternaError the answers do not fit the anchors.
 */
export function findBoxes(
  levels: readonly LevelAnswer[],
  settings: DetectorSettings,
  input: Size,
  picture: Size,
): Candidate[] {
  if (levels.length !== settings.anchors.length) {
    throw new SternaError(
      `metadata: detector.anchors must be of ${levels.length} levels, got ${settings.anchors.length}`,
    );
  }
  const candidates = levels.flatMap((level, place) =>
    candidatesOf(level, settings.anchors[place]!, settings, input, picture),
  );
  // Stable, so that boxes of one score keep the order of the levels.
  candidates.sort((one, other) => other.score - one.score);
  return suppressed(candidates, settings.nmsThreshold, settings.detectionsPerImage);
}

function candidatesOf(
  { logits, regression }: LevelAnswer,
  anchors: readonly Corners[],
  settings: DetectorSettings,
  input: Size,
  picture: Size,
): Candidate[] {
  const [, channels, height, width] = logits.shape as readonly [number, number, number, number];
  const wanted = `1, ${NUMBERS * anchors.length}, ${height}, ${width}`;
  if (channels === 0 || channels % anchors.length !== 0 || regression.shape.join(", ") !== wanted) {
    throw new SternaError(
      `metadata: detector.anchors has ${anchors.length} anchors a pixel, which do not fit outputs of shapes ` +
        `(${logits.shape.join(", ")}) and (${regression.shape.join(", ")})`,
    );
  }
  const classes = channels / anchors.length;
  const found = best(logits.data, height * width, settings);
  const strides = { x: Math.floor(input.width / width), y: Math.floor(input.height / height) };
  return found.map(({ logit, channel, pixel }) => {
    const anchor = Math.floor(channel / classes);
    const numbers = Array.from(
      { length: NUMBERS },
      (_, number) => regression.data[(anchor * NUMBERS + number) * height * width + pixel]!,
    );
    const x = (pixel % width) * strides.x;
    const y = Math.floor(pixel / width) * strides.y;
    const [left, top, right, bottom] = anchors[anchor]!;
    const corners = decode(numbers, [left + x, top + y, right + x, bottom + y], settings);
    if (!corners.every(Number.isFinite)) throw notFinite();
    return { corners: clipped(corners, picture), score: sigmoid(logit), index: channel % classes };
  });
}

/** The best places above the threshold; those of one score in the order of pixels, anchors and classes. */
function best(
  logits: Float32Array,
  pixels: number,
  { scoreThreshold, topkCandidates }: DetectorSettings,
): Found[] {
  const threshold = Math.fround(scoreThreshold);
  const cut = (places: Found[]): Found[] =>
    places
      .sort((one, other) => other.logit - one.logit || one.pixel - other.pixel || one.channel - other.channel)
      .slice(0, topkCandidates);
  let lowest = logitOf(scoreThreshold) - MARGIN;
  let found: Found[] = [];
  for (let channel = 0; channel * pixels < logits.length; ++channel) {
    for (let pixel = 0; pixel < pixels; ++pixel) {
      const logit = logits[channel * pixels + pixel]!;
      if (logit < lowest) continue;
      if (Number.isNaN(logit)) throw notFinite();
      if (sigmoid(logit) > threshold) found.push({ logit, channel, pixel });
      if (found.length < 2 * topkCandidates) continue;
      found = cut(found);
      lowest = found.at(-1)!.logit;
    }
  }
  return cut(found);
}

/** In float32, as PyTorch. */
function sigmoid(logit: number): number {
  return Math.fround(1 / (1 + Math.exp(-logit)));
}

function logitOf(probability: number): number {
  if (probability <= 0) return -Infinity;
  return probability >= 1 ? Infinity : Math.log(probability / (1 - probability));
}

function notFinite(): SternaError {
  return new SternaError("the network answers with numbers that are not finite");
}

function decode(numbers: readonly number[], anchor: Corners, { boxWeights, boxClip }: DetectorSettings): Corners {
  const [dx, dy, dw, dh] = numbers.map((number, place) => number / boxWeights[place]!) as [number, number, number, number];
  const width = anchor[2] - anchor[0];
  const height = anchor[3] - anchor[1];
  const x = anchor[0] + width / 2 + dx * width;
  const y = anchor[1] + height / 2 + dy * height;
  const halfWidth = (Math.exp(Math.min(dw, boxClip)) * width) / 2;
  const halfHeight = (Math.exp(Math.min(dh, boxClip)) * height) / 2;
  return [x - halfWidth, y - halfHeight, x + halfWidth, y + halfHeight];
}

function clipped([left, top, right, bottom]: Corners, { width, height }: Size): Corners {
  const within = (value: number, highest: number): number => Math.min(Math.max(value, 0), highest);
  return [within(left, width), within(top, height), within(right, width), within(bottom, height)];
}

/** Without boxes that overlap a better one of their class by more than the threshold; the first `count` of what is left. */
function suppressed(candidates: readonly Candidate[], threshold: number, count: number): Candidate[] {
  const kept = new Map<number, Candidate[]>();
  const all: Candidate[] = [];
  for (const candidate of candidates) {
    if (all.length === count) break;
    let ofClass = kept.get(candidate.index);
    if (ofClass === undefined) kept.set(candidate.index, (ofClass = []));
    if (ofClass.some((better) => overlap(better.corners, candidate.corners) > threshold)) continue;
    ofClass.push(candidate);
    all.push(candidate);
  }
  return all;
}

/** Of the area that two boxes cover, the share that both do; of boxes without area none. */
function overlap(one: Corners, other: Corners): number {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  const both = Math.max(width, 0) * Math.max(height, 0);
  const area = ([left, top, right, bottom]: Corners): number => (right - left) * (bottom - top);
  return both / (area(one) + area(other) - both);
}
