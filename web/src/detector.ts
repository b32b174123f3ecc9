/** A RetinaNet that is ready to find objects: its graph, and what lies around it. */

import { type Candidate, findBoxes, type LevelAnswer } from "./boxes.js";
import { type DetectorInput, prepareDetectorInput } from "./detector_input.js";
import { type Corners, type DetectorSettings, readDetectorSettings } from "./detector_settings.js";
import { SternaError } from "./errors.js";
import { labelName } from "./metadata.js";
import { type Picture, pixelsOf } from "./picture.js";
import { type LoadOptions, Session } from "./session.js";
import type { Source } from "./source.js";

/** An object in a picture. */
export interface Detection {
  /** The class's name, or its number where it has no name. */
  readonly label: string;
  readonly index: number;
  /** How sure the network is, 0 to 1. */
  readonly score: number;
  /** Left, top, right, bottom, in pixels of the picture. */
  readonly box: Corners;
}

export interface DetectOptions {
  /** Lowest score of an object. */
  readonly threshold?: number;
  /** Of objects; the best ones are given. */
  readonly limit?: number;
}

// As in `sterna run`.
const THRESHOLD = 0.5;
const LIMIT = 100;
const BACKBONE = "backbone";
const LOGITS = "head.classification_head.cls_logits.";
const REGRESSION = "head.regression_head.bbox_reg.";

export class Detector {
  readonly #settings: DetectorSettings;
  readonly #logits: readonly string[];
  readonly #regression: readonly string[];

  /**
   * @param session of the graph `backbone` of a RetinaNet's file.
   * @throws SternaError the file does not say how boxes are found, or has another graph.
   */
  constructor(readonly session: Session) {
    this.#settings = readDetectorSettings(session.metadata);
    this.#logits = session.outputs.filter((name) => name.startsWith(LOGITS));
    this.#regression = session.outputs.filter((name) => name.startsWith(REGRESSION));
    if (this.#logits.length === 0 || this.#logits.length !== this.#regression.length) {
      throw new SternaError(
        `a detector needs the outputs ${LOGITS}... and ${REGRESSION}..., one a level; the graph has ` +
          `${session.outputs.join(", ")}`,
      );
    }
  }

  /**
   * Load a detector's `.sterna` file, as `Session.load` does.
   *
   * @throws SternaError as `Session.load`, or the file is no RetinaNet that says how its boxes are found.
   */
  static async load(source: Source, options: Omit<LoadOptions, "graph"> = {}): Promise<Detector> {
    const session = await Session.load(source, { ...options, graph: BACKBONE });
    try {
      return new Detector(session);
    } catch (error) {
      session.dispose();
      throw error;
    }
  }

  /**
   * Find objects in a picture.
   *
   * @returns the best first.
   * @throws SternaError the picture cannot be scaled, there is not enough memory for it, or a number is not finite.
   */
  async detect(picture: Picture, { threshold = THRESHOLD, limit = LIMIT }: DetectOptions = {}): Promise<Detection[]> {
    const pixels = pixelsOf(picture);
    const input = prepareDetectorInput(pixels, this.#settings);
    const candidates = findBoxes(await this.#answer(input), this.#settings, sizeOf(input), input);
    const across = pixels.width / input.width;
    const down = pixels.height / input.height;
    return candidates
      .filter(({ score }) => score >= threshold)
      .slice(0, limit)
      .map((candidate) => this.#detection(candidate, across, down));
  }

  /** Free all memory, as that of the session. */
  dispose(): void {
    this.session.dispose();
  }

  async #answer({ tensor }: DetectorInput): Promise<LevelAnswer[]> {
    const outputs = await this.session.run(tensor.data, tensor.shape, [...this.#logits, ...this.#regression]);
    return this.#logits.map((name, level) => ({
      logits: outputs[name]!,
      regression: outputs[this.#regression[level]!]!,
    }));
  }

  #detection({ corners, score, index }: Candidate, across: number, down: number): Detection {
    const [left, top, right, bottom] = corners;
    const box = [left * across, top * down, right * across, bottom * down] as const;
    return { label: labelName(this.session.labels, index), index, score, box };
  }
}

function sizeOf({ tensor }: DetectorInput): { height: number; width: number } {
  const [, , height, width] = tensor.shape as [number, number, number, number];
  return { height, width };
}
