/** Pixels of what browsers show. */

import { SternaError } from "./errors.js";
import type { Pixels } from "./preprocessing.js";

/** What has a width and a height in pixels and can be drawn, or pixels. */
export type Picture = Pixels | HTMLVideoElement | HTMLImageElement | HTMLCanvasElement | ImageBitmap;

export function isPixels(picture: Picture): picture is Pixels {
  return "data" in picture && ArrayBuffer.isView(picture.data);
}

/**
 * The pixels of a picture, in its own size.
 *
 * @throws SternaError it has none yet, or they may not be read.
 */
export function pixelsOf(picture: Picture): Pixels {
  if (isPixels(picture)) return picture;
  const [width, height] = sizeOf(picture);
  if (width === 0 || height === 0) throw new SternaError("the picture has no pixels: is it loaded?");
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (context === null) throw new SternaError("this browser gives no canvas to read pictures with");
  context.drawImage(picture, 0, 0);
  try {
    return context.getImageData(0, 0, width, height);
  } catch (error) {
    throw new SternaError(`the pixels of the picture may not be read: ${String(error)}`);
  }
}

function sizeOf(picture: Exclude<Picture, Pixels>): [number, number] {
  if ("videoWidth" in picture) return [picture.videoWidth, picture.videoHeight];
  if ("naturalWidth" in picture) return [picture.naturalWidth, picture.naturalHeight];
  return [picture.width, picture.height];
}
