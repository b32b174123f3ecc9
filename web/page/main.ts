/** The page: networks and pictures come in, answers go out. */

import { SternaError } from "../dist/index.js";
import { Camera } from "./camera.js";
import { type Answer, Network } from "./network.js";
import { decodePicture, readFrame } from "./pixels.js";
import * as view from "./view.js";

// Those who listen are told of what the camera sees when it changes, but not in every frame.
const SPOKEN_INTERVAL = 3000;

const camera = new Camera(view.element<HTMLVideoElement>("video"));
const cameraButton = view.element<HTMLButtonElement>("camera");
const preview = view.element<HTMLCanvasElement>("preview");

let network: Network | undefined;
let picture: ImageData | undefined;
let loading: AbortController | undefined;
// Answers to what is no longer asked are not shown.
let question = 0;

/** Do something that a person asked for; what goes wrong is told, and the page goes on. */
async function attempt(work: () => Promise<void>): Promise<void> {
  view.clearError();
  try {
    await work();
  } catch (error) {
    report(error);
  }
}

function report(error: unknown): void {
  if (error instanceof SternaError) view.showError(error.message);
  else view.showError(`this is a defect of the page: ${error instanceof Error ? error.message : String(error)}`);
}

async function useNetwork(name: string, source: Blob | URL): Promise<void> {
  loading?.abort();
  const control = new AbortController();
  loading = control;
  view.showLoading(name);
  let loaded: Network;
  try {
    loaded = await Network.load(name, source, {
      signal: control.signal,
      onProgress: (progress) => {
        if (loading === control) view.showLoading(name, progress);
      },
    });
  } catch (error) {
    if (loading !== control) return; // another one was asked for meanwhile
    throw error;
  } finally {
    if (loading === control) view.hideLoading();
  }
  if (loading !== control) {
    loaded.dispose();
    return;
  }
  loading = undefined;
  network?.dispose();
  network = loaded;
  view.showFacts(loaded.facts);
  view.announce(`${name} is ready`);
  if (picture === undefined && !camera.isOn) view.hint("Now it needs a picture.");
  // The picture is answered while the other session is loaded.
  const answered = askAboutPicture();
  await loaded.complete();
  await answered;
  if (network === loaded) await askAboutPicture();
}

async function usePicture(file: Blob, name: string): Promise<void> {
  const decoded = await decodePicture(file, name);
  stopCamera();
  picture = decoded;
  preview.width = decoded.width;
  preview.height = decoded.height;
  preview.getContext("2d")!.putImageData(decoded, 0, 0);
  preview.ariaLabel = `The picture ${name}`;
  view.clearBoxes();
  show(preview);
  if (network === undefined) view.hint("Now it needs a network.");
  await askAboutPicture();
}

async function askAboutPicture(): Promise<void> {
  if (network === undefined || picture === undefined || camera.isOn) return;
  const asked = ++question;
  const { isCalibrated } = network;
  const { width, height } = picture;
  let told = "";
  try {
    await network.measure(picture, (answers) => {
      if (asked !== question) return false;
      view.showAnswers(answers, { width, height });
      view.hint(view.compare(answers, isCalibrated));
      told = answers.map(view.spoken).join("; ");
      return true;
    });
  } catch (error) {
    // A network that another one has replaced gives no more answers.
    if (asked === question) throw error;
  }
  if (asked === question) view.announce(told);
}

async function useCamera(): Promise<void> {
  cameraButton.ariaPressed = "true";
  cameraButton.textContent = "Stop the camera";
  try {
    if (!(await camera.start(stopCamera))) return;
  } catch (error) {
    stopCamera();
    throw error;
  }
  view.clearBoxes();
  show(camera.video);
  if (network === undefined) view.hint("Now it needs a network.");
  await watch();
}

/** Ask about one frame after the other. */
async function watch(): Promise<void> {
  const asked = ++question;
  let lastSpoken = -Infinity;
  let lastLabels: string | undefined;
  while (asked === question && camera.isOn) {
    await camera.nextFrame();
    if (network === undefined || !camera.isOn) continue;
    const used = network;
    const frame = readFrame(camera.video);
    let answers: Answer[];
    try {
      answers = await used.ask(frame);
    } catch (error) {
      if (used !== network) continue;
      stopCamera();
      throw error;
    }
    if (asked !== question) return;
    view.showAnswers(answers, frame);
    view.hint(view.compare(answers, used.isCalibrated));
    const [first] = answers;
    if (first === undefined) continue;
    const labels = view.named(first);
    if (labels !== lastLabels && performance.now() - lastSpoken > SPOKEN_INTERVAL) {
      view.announce(view.spoken(first));
      lastSpoken = performance.now();
      lastLabels = labels;
    }
  }
}

function stopCamera(): void {
  if (camera.isOn) ++question;
  camera.stop();
  cameraButton.ariaPressed = "false";
  cameraButton.textContent = "Use the camera";
  view.clearBoxes();
  show(picture === undefined ? view.element("placeholder") : preview);
}

/** Show one of the things that the stage can show. */
function show(shown: HTMLElement): void {
  for (const other of [view.element("placeholder"), preview, camera.video]) other.hidden = other !== shown;
}

/** A file is a network if its name says so, and else a picture. */
async function useFile(file: File): Promise<void> {
  if (file.name.toLowerCase().endsWith(".sterna")) await useNetwork(file.name, file);
  else await usePicture(file, file.name);
}

function listen(): void {
  for (const id of ["model-input", "picture-input"]) {
    const input = view.element<HTMLInputElement>(id);
    input.addEventListener("change", () => {
      const file = input.files?.[0];
      // The same file may be chosen again.
      input.value = "";
      if (file === undefined) return;
      void attempt(() => (id === "model-input" ? useNetwork(file.name, file) : usePicture(file, file.name)));
    });
  }
  cameraButton.addEventListener("click", () => {
    if (cameraButton.ariaPressed === "true") stopCamera();
    else void attempt(useCamera);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    useFiles(event.dataTransfer?.files);
  });
  document.addEventListener("paste", (event) => useFiles(event.clipboardData?.files));
  addEventListener("error", (event) => report(event.error ?? event.message));
  addEventListener("unhandledrejection", (event) => report(event.reason));
}

/** A network and a picture may come together. */
function useFiles(files: FileList | undefined): void {
  for (const file of files ?? []) void attempt(() => useFile(file));
}

/** Load the network that the address names (`?model=models/resnet18.sterna`), from where the page is from. */
function useAddress(): void {
  const named = new URLSearchParams(location.search).get("model");
  if (named === null) return;
  void attempt(async () => {
    const address = URL.canParse(named, location.href) ? new URL(named, location.href) : undefined;
    if (address?.origin !== location.origin) {
      throw new SternaError(`the address of a network must be one of ${location.origin}, got ${named}`);
    }
    await useNetwork(fileName(address), address);
  });
}

function fileName(address: URL): string {
  const last = address.pathname.split("/").at(-1)!;
  try {
    return decodeURIComponent(last);
  } catch {
    return last; // not UTF-8
  }
}

listen();
useAddress();
