/** Runs sparse ternary vision networks (`.sterna` files) in browsers and in Node. */

export { type Classification, topClasses } from "./classes.js";
export { type Detection, type DetectOptions, Detector } from "./detector.js";
export type { LayerTime, Tensor } from "./engine.js";
export { SternaError } from "./errors.js";
export { describe, type Description, type Metadata, type Preprocessing, readPreprocessing } from "./metadata.js";
export type { Picture } from "./picture.js";
export { preprocess, type Pixels } from "./preprocessing.js";
export { type LoadOptions, type Progress, Session } from "./session.js";
export type { Source } from "./source.js";
