/** Reading what a file says of a detector (`metadata.detector`, docs/format.md). */

import { SternaError } from "./errors.js";
import {
  areStatistics,
  isList,
  isObject,
  isSide,
  isWhole,
  type Json,
  LARGEST_SIDE,
  malformed,
  type Metadata,
  own,
} from "./metadata.js";

/** Left, top, right, bottom. */
export type Corners = readonly [number, number, number, number];

/** How pictures are scaled for a RetinaNet, and how boxes follow from what it answers; torchvision's names. */
export interface DetectorSettings {
  /** Of the scaled picture, the short side in pixels, unless the long one would be longer than `maxSize`. */
  readonly minSize: number;
  readonly maxSize: number;
  /** The input's sides are multiples of it. */
  readonly sizeDivisible: number;
  readonly imageMean: readonly number[];
  readonly imageStd: readonly number[];
  /** By level of the pyramid: those of a pixel, around its corner, in pixels of the scaled picture. */
  readonly anchors: readonly (readonly Corners[])[];
  /** What the numbers of a box are divided by: centre's x and y, width, height. */
  readonly boxWeights: readonly [number, number, number, number];
  /** Of the logarithm of a side, in sides of the anchor. */
  readonly boxClip: number;
  readonly scoreThreshold: number;
  readonly nmsThreshold: number;
  /** Of each level. */
  readonly topkCandidates: number;
  readonly detectionsPerImage: number;
}

const CHANNELS = 3;
// What a file may ask for.
const MOST_LEVELS = 16;
const MOST_ANCHORS = 256; // of a pixel
const MOST_BOXES = 100_000;
const LARGEST_CORNER = 1e6;

/**
 * Read `metadata.detector`.
 *
 * @throws SternaError it is missing, of another kind, or malformed; the message names the key.
 */
export function readDetectorSettings(metadata: Metadata): DetectorSettings {
  const values = own(metadata, "detector");
  if (values === undefined) {
    throw new SternaError(
      "the file does not say how its boxes are found: it can be a RetinaNet of an earlier version of Sterna " +
        "(sterna calibrate adds it), other detectors need sterna run",
    );
  }
  if (!isObject(values)) throw malformed("detector", "an object", values);
  const kind = own(values, "kind");
  if (kind !== "retinanet") throw malformed("detector.kind", "retinanet", kind);
  const sizeDivisible = number(values, "size_divisible", `a whole number of 1 to ${LARGEST_SIDE}`, isSide);
  return {
    minSize: number(values, "min_size", `a whole number of 1 to ${LARGEST_SIDE}`, isSide),
    maxSize: number(values, "max_size", `a whole number of 1 to ${LARGEST_SIDE}`, isSide),
    sizeDivisible,
    imageMean: statistics(values, "image_mean", () => true),
    imageStd: statistics(values, "image_std", (value) => value > 0),
    anchors: readAnchors(values),
    boxWeights: readWeights(values),
    boxClip: number(values, "box_clip", "a number of 0 to 80", isWithin(0, 80)),
    scoreThreshold: number(values, "score_thresh", "a number", isWithin(-Infinity, Infinity)),
    nmsThreshold: number(values, "nms_thresh", "a number", isWithin(-Infinity, Infinity)),
    topkCandidates: number(values, "topk_candidates", `a whole number of 1 to ${MOST_BOXES}`, isCount),
    detectionsPerImage: number(values, "detections_per_img", `a whole number of 1 to ${MOST_BOXES}`, isCount),
  };
}

function number(
  values: Metadata,
  key: string,
  allowed: string,
  isAllowed: (value: Json | undefined) => value is number,
): number {
  const value = own(values, key);
  if (!isAllowed(value)) throw malformed(`detector.${key}`, allowed, value);
  return value;
}

function isWithin(lowest: number, highest: number) {
  return (value: Json | undefined): value is number =>
    typeof value === "number" && value >= lowest && value <= highest;
}

function isCount(value: Json | undefined): value is number {
  return isWhole(value, 1, MOST_BOXES);
}

function statistics(values: Metadata, key: string, isAllowed: (value: number) => boolean): readonly number[] {
  const list = own(values, key);
  if (areStatistics(list, CHANNELS) && list.every(isAllowed)) return list;
  throw malformed(`detector.${key}`, `a list of ${CHANNELS} numbers, one a channel`, list);
}

function readWeights(values: Metadata): DetectorSettings["boxWeights"] {
  const list = own(values, "box_weights");
  if (isList(list) && list.length === 4 && list.every((value) => typeof value === "number" && value > 0)) {
    return list as unknown as DetectorSettings["boxWeights"];
  }
  throw malformed("detector.box_weights", "a list of 4 numbers above 0", list);
}

function readAnchors(values: Metadata): DetectorSettings["anchors"] {
  const levels = own(values, "anchors");
  const isLevel = (level: Json): boolean =>
    isList(level) && level.length >= 1 && level.length <= MOST_ANCHORS && level.every(isAnchor);
  if (isList(levels) && levels.length >= 1 && levels.length <= MOST_LEVELS && levels.every(isLevel)) {
    return levels as unknown as DetectorSettings["anchors"];
  }
  throw malformed("detector.anchors", "for each level a list of anchors of 4 numbers", levels);
}

function isAnchor(value: Json): boolean {
  return (
    isList(value) &&
    value.length === 4 &&
    value.every((corner) => typeof corner === "number" && Math.abs(corner) <= LARGEST_CORNER)
  );
}
