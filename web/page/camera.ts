/** The camera: asked for only when it is wanted, and let go at once. */

import { SternaError } from "../dist/index.js";

const REASONS: Readonly<Record<string, string>> = {
  NotAllowedError: "the camera was denied: allow it in the browser's settings for this page, or choose a picture",
  NotFoundError: "no camera was found: choose a picture instead",
  NotReadableError: "the camera is used by another program",
  AbortError: "the camera did not start",
};

export class Camera {
  #stream: MediaStream | undefined;
  #isWanted = false;

  /** @param video shows what the camera sees. */
  constructor(readonly video: HTMLVideoElement) {}

  /**
   * Ask for the camera and show it.
   *
   * @param onEnd is called when the camera goes away by itself.
   * @returns whether it is on: `stop` may have been called meanwhile.
   * @throws SternaError it was denied, or there is none.
   */
  async start(onEnd: () => void): Promise<boolean> {
    this.#isWanted = true;
    // Browsers hide cameras from pages that others could have changed on their way.
    if (navigator.mediaDevices === undefined) {
      throw new SternaError("cameras need https, or a page of this machine: choose a picture instead");
    }
    let stream: MediaStream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: false,
        video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "environment" },
      });
    } catch (error) {
      const name = error instanceof Error ? error.name : "";
      throw new SternaError(REASONS[name] ?? `the camera did not start: ${String(error)}`);
    }
    this.#stream = stream;
    if (!this.#isWanted) {
      this.stop();
      return false;
    }
    for (const track of stream.getTracks()) track.addEventListener("ended", onEnd);
    this.video.srcObject = stream;
    await this.video.play().catch(() => undefined); // stopped before it played
    return this.#isWanted;
  }

  /** Whether it was started and not stopped. */
  get isOn(): boolean {
    return this.#isWanted;
  }

  stop(): void {
    this.#isWanted = false;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = undefined;
    this.video.srcObject = null;
  }

  /** Wait until there is a new picture, and the page is looked at. */
  async nextFrame(): Promise<void> {
    if (document.hidden) {
      await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    }
    await new Promise((resolve) => requestAnimationFrame(resolve));
  }
}
