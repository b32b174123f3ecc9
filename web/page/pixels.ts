/** From files and the camera to pixels. */

import { SternaError } from "../dist/index.js";

// 400 MB of pixels: more than cameras take, and less than a tab may have.
const MOST_PIXELS = 1e8;

/**
 * Decode a picture, as it is meant to be looked at: turned as its camera was held, on white where it is transparent.
 * Numbers are those in the file, without a conversion of colours, as in Python.
 *
 * @throws SternaError it cannot be read.
 */
export async function decodePicture(file: Blob, name: string): Promise<ImageData> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "default" });
  } catch {
    throw new SternaError(`${name} is not a picture that this browser can read`);
  }
  try {
    return readPixels(bitmap, bitmap.width, bitmap.height, name);
  } finally {
    bitmap.close();
  }
}

/** The picture that a video shows now. */
export function readFrame(video: HTMLVideoElement): ImageData {
  return readPixels(video, video.videoWidth, video.videoHeight, "the camera");
}

let surface: OffscreenCanvas | undefined;

function readPixels(source: CanvasImageSource, width: number, height: number, name: string): ImageData {
  if (width * height > MOST_PIXELS) {
    throw new SternaError(`${name} has ${width} x ${height} pixels; ${MOST_PIXELS / 1e6} million are allowed`);
  }
  if (surface?.width !== width || surface.height !== height) surface = new OffscreenCanvas(width, height);
  const context = surface.getContext("2d", { willReadFrequently: true });
  if (context === null) throw new SternaError(`this browser has no memory for the ${width} x ${height} pixels of ${name}`);
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height);
}
