/**
 * Reading a file's metadata: what `sterna/pictures.py` is in Python.
 *
 * Metadata are a stranger's JSON values. What is needed to run the network and does not fit is a `SternaError` of one
 * line; what only describes it is left out, as `sterna inspect` does.
 */

import { SternaError } from "./errors.js";

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** The JSON object in a file; which keys Sterna writes is told by docs/format.md. None has to be there. */
export type Metadata = { readonly [key: string]: Json };

export const TASKS = ["classification", "detection", "instance-segmentation"] as const;
export type Task = (typeof TASKS)[number];

/** How a picture becomes an input of a classifier: `(pixel / pixelMaximum - mean) / std`. */
export interface Preprocessing {
  /** 1 for grey pictures, 3 for RGB. */
  readonly channels: 1 | 3;
  /** Of the input, in pixels. */
  readonly height: number;
  /** Of the input, in pixels. */
  readonly width: number;
  /** Short side in pixels before the centre is cut; null to scale to the input's size at once. */
  readonly resize: number | null;
  /** The value of a white pixel, a whole number; pixels are whole numbers up to it. */
  readonly pixelMaximum: number;
  /** Per channel, of pixels in 0..1. */
  readonly mean: readonly number[];
  /** Per channel, of pixels in 0..1. */
  readonly std: readonly number[];
}

/** What a file says about its network. */
export interface Description {
  /** The architecture. */
  readonly model?: string;
  /** The best class is right for so many of a hundred images. */
  readonly top1?: number;
  /** How many images that was measured on. */
  readonly images?: number;
}

const WHITE = 255;
// What a file may ask for, as in Python.
export const LARGEST_SIDE = 4096;
const LARGEST_STATISTIC = 1e6;
const SHOWN_CHARACTERS = 60;
// Nobody nests so deeply; Python refuses about twice as much.
const DEEPEST_NESTING = 500;

/**
 * Parse the bytes of the metadata.
 *
 * @throws SternaError they are no JSON object in UTF-8, hold a number beyond a double's range, or are nested too deeply.
 */
export function parseMetadata(bytes: Uint8Array): Metadata {
  let value: Json;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes)) as Json;
  } catch (error) {
    throw new SternaError(`metadata: not valid JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
  checkValues(value);
  if (!isObject(value)) throw new SternaError("metadata: must be a JSON object");
  return value;
}

/**
 * The task that a network was trained for.
 *
 * @throws SternaError it is missing or another one.
 */
export function readTask(metadata: Metadata): Task {
  const task = own(metadata, "task");
  const known = TASKS.find((name) => name === task);
  if (known === undefined) throw malformed("task", TASKS.join(" or "), task);
  return known;
}

/**
 * The names of the classes; none where the file has none.
 *
 * @throws SternaError they are not a list of texts.
 */
export function readLabels(metadata: Metadata): string[] {
  const labels = own(metadata, "labels") ?? [];
  if (!Array.isArray(labels) || !labels.every((label): label is string => typeof label === "string")) {
    throw malformed("labels", "a list of texts", labels);
  }
  return [...labels];
}

/** The name of a class, or its number where it has no name. */
export function labelName(labels: readonly string[], index: number): string {
  return labels[index] ?? String(index);
}

/**
 * Read `metadata.preprocessing` of a classifier.
 *
 * @throws SternaError it is missing or malformed; the message names the key.
 */
export function readPreprocessing(metadata: Metadata): Preprocessing {
  const values = own(metadata, "preprocessing");
  if (!isObject(values)) throw malformed("preprocessing", "an object", values);
  const shape = own(values, "input_shape");
  if (!isList(shape) || shape.length !== 3 || !(shape[0] === 1 || shape[0] === 3) || !shape.every(isSide)) {
    const allowed = `[channels, height, width] with 1 or 3 channels and sides of 1 to ${LARGEST_SIDE}`;
    throw malformed("preprocessing.input_shape", allowed, shape);
  }
  const [channels, height, width] = shape as [1 | 3, number, number];
  const resize = own(values, "resize") ?? null;
  if (resize !== null && !isSide(resize)) {
    throw malformed("preprocessing.resize", `null or a whole number of 1 to ${LARGEST_SIDE}`, resize);
  }
  const pixelMaximum = own(values, "pixel_maximum");
  if (!isWhole(pixelMaximum, 2, WHITE)) {
    throw malformed("preprocessing.pixel_maximum", `a whole number of 2 to ${WHITE}`, pixelMaximum);
  }
  const mean = own(values, "mean");
  const std = own(values, "std");
  if (!areStatistics(mean, channels)) {
    throw malformed("preprocessing.mean", `a list of ${channels} numbers, one a channel`, mean);
  }
  if (!areStatistics(std, channels) || !std.every((value) => value > 0)) {
    throw malformed("preprocessing.std", `a list of ${channels} numbers above 0, one a channel`, std);
  }
  return { channels, height, width, resize, pixelMaximum, mean, std };
}

/** What a file says about its network, as far as it says it. */
export function describe(metadata: Metadata): Description {
  const model = own(metadata, "model");
  const name = isObject(model) ? own(model, "name") : undefined;
  const metrics = own(metadata, "metrics");
  const [top1, images] = isObject(metrics) ? [own(metrics, "top1"), own(metrics, "images")] : [];
  return {
    ...(typeof name === "string" && { model: name }),
    ...(typeof top1 === "number" && top1 >= 0 && top1 <= 100 && { top1 }),
    ...(isWhole(images, 1, Number.MAX_SAFE_INTEGER) && { images }),
  };
}

/** Refuse what JSON.parse takes and Python does not: numbers that became infinite, and towers of brackets. */
function checkValues(value: Json): void {
  let level = [value];
  for (let depth = 0; level.length > 0; ++depth) {
    if (depth > DEEPEST_NESTING) {
      throw new SternaError(`metadata: not valid JSON: values are nested more than ${DEEPEST_NESTING} deep`);
    }
    const next: Json[] = [];
    for (const one of level) {
      if (typeof one === "number" && !Number.isFinite(one)) {
        throw new SternaError("metadata: not valid JSON: a number beyond the range of a double");
      }
      if (typeof one === "object" && one !== null) for (const inner of Object.values(one)) next.push(inner);
    }
    level = next;
  }
}

/** A key of the file's own: `constructor` and the like are no values of a stranger. */
export function own(values: Metadata, key: string): Json | undefined {
  return Object.hasOwn(values, key) ? values[key] : undefined;
}

export function isList(value: Json | undefined): value is readonly Json[] {
  return Array.isArray(value);
}

export function isObject(value: Json | undefined): value is Metadata {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isWhole(value: Json | undefined, lowest: number, highest: number): value is number {
  return Number.isInteger(value) && (value as number) >= lowest && (value as number) <= highest;
}

export function isSide(value: Json | undefined): value is number {
  return isWhole(value, 1, LARGEST_SIDE);
}

export function areStatistics(values: Json | undefined, channels: number): values is readonly number[] {
  return (
    isList(values) &&
    values.length === channels &&
    values.every((value) => typeof value === "number" && Math.abs(value) <= LARGEST_STATISTIC)
  );
}

export function malformed(key: string, allowed: string, got: Json | undefined): SternaError {
  const text = got === undefined || got === null ? "nothing" : JSON.stringify(got);
  const shown = text.length <= SHOWN_CHARACTERS ? text : `${text.slice(0, SHOWN_CHARACTERS)}...`;
  return new SternaError(`metadata: ${key} must be ${allowed}, got ${shown}`);
}
