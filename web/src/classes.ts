/** From the logits of a classifier to names: what `top_classes` of `sterna/pictures.py` does. */

import { SternaError } from "./errors.js";
import { labelName } from "./metadata.js";

export interface Classification {
  /** The class's name, or its number where it has no name. */
  readonly label: string;
  readonly index: number;
  readonly probability: number;
}

/**
 * The most probable classes, by softmax in float64.
 *
 * @param logits of one picture, `(classes)`.
 * @param labels names of the classes.
 * @param count of classes wanted; all of them where there are fewer.
 * @returns most probable first; equally probable classes in the order of their numbers.
 * @throws SternaError a logit is not finite.
 */
export function topClasses(logits: Float32Array, labels: readonly string[], count: number): Classification[] {
  let highest = -Infinity;
  for (const logit of logits) {
    if (!Number.isFinite(logit)) throw new SternaError("the network answers with numbers that are not finite");
    highest = Math.max(highest, logit);
  }
  const powers = Float64Array.from(logits, (logit) => Math.exp(logit - highest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  const order = Array.from(powers.keys()).sort((a, b) => powers[b]! - powers[a]! || a - b);
  return order.slice(0, count).map((index) => ({
    label: labelName(labels, index),
    index,
    probability: powers[index]! / total,
  }));
}
