/** A network in two sessions, with 8-bit and with exact activations, and how long they take. */

import {
  type Classification,
  describe,
  type Detection,
  Detector,
  preprocess,
  type Preprocessing,
  type Progress,
  readPreprocessing,
  Session,
  SternaError,
  topClasses,
} from "../dist/index.js";
import { median } from "../dist/median.js";
import { readTask } from "../dist/metadata.js";

export interface Answer {
  readonly activations: string;
  /** The most probable ones, of a classifier. */
  readonly classes: readonly Classification[];
  /** The best ones, of a detector. */
  readonly objects?: readonly Detection[];
  /** Of a run of the network, of a detector with all that is around it; the median of the last ones. */
  readonly milliseconds: number;
}

/** What there is to tell about a network. */
export interface Facts {
  readonly name: string;
  readonly fileBytes: number;
  /** Of its weights, if they were float32. */
  readonly floatBytes: number;
  /** Right answers in a hundred, on so many images. */
  readonly top1?: number;
  readonly images?: number;
}

interface Contestant {
  readonly session: Session;
  /** Of a detector. */
  readonly detector?: Detector;
  /** Of the last runs. */
  readonly times: number[];
}

const TOP = 5;
const MOST_OBJECTS = 20;
const KEPT_TIMES = 31;
// A picture is asked about until the median is steady, but not so long that a slow device is felt.
const ROUNDS = 15;
const LONGEST_MEASUREMENT = 1500;

export class Network {
  readonly #contestants: Contestant[] = [];
  #preprocessing: Preprocessing | undefined;
  /** The file once more, for the second session. */
  #rest: Blob | Response | undefined;
  #isDisposed = false;

  private constructor(readonly name: string) {}

  /**
   * Load a network; the first session is there when this returns, the other one follows with `complete`.
   *
   * @param name is shown.
   * @param source its file, or its address.
   * @throws SternaError it cannot be fetched, is damaged, or is no classifier and no RetinaNet that the engine runs.
   */
  static async load(
    name: string,
    source: Blob | URL,
    options: { onProgress: (progress: Progress) => void; signal: AbortSignal },
  ): Promise<Network> {
    const [first, second] = source instanceof Blob ? [source, source] : await fetchTwice(name, source, options.signal);
    const network = new Network(name);
    network.#rest = second;
    try {
      network.#add(await Session.load(first, options));
    } catch (error) {
      network.dispose();
      throw error;
    }
    return network;
  }

  /** Load the session with exact activations beside that with 8-bit ones. */
  async complete(): Promise<void> {
    if (!this.isCalibrated) this.#forgetRest();
    const rest = this.#rest;
    if (rest === undefined) return;
    this.#rest = undefined;
    const second = await Session.load(rest, { activations: "float32" });
    if (this.#isDisposed) second.dispose();
    else this.#add(second);
  }

  /** Whether it has ranges for 8-bit activations. */
  get isCalibrated(): boolean {
    return this.#first.activations === "int8";
  }

  get facts(): Facts {
    const { bytes, parameters, metadata } = this.#first;
    return { name: this.name, fileBytes: bytes, floatBytes: 4 * parameters, ...describe(metadata) };
  }

  /** Ask every session once. */
  async ask(image: ImageData): Promise<Answer[]> {
    return this.#run(this.#prepare(image));
  }

  /** Ask again and again, in turns, until times are steady; `onAnswers` is told of each round, and may end it. */
  async measure(image: ImageData, onAnswers: (answers: Answer[]) => boolean): Promise<void> {
    const input = this.#prepare(image);
    this.#forgetTimes();
    const begin = performance.now();
    for (let round = 0; round < ROUNDS; ++round) {
      const goesOn = onAnswers(await this.#run(input));
      if (!goesOn || performance.now() - begin > LONGEST_MEASUREMENT) return;
      // The first run lays out memory, and the browser has not optimised the engine yet.
      if (round === 0) this.#forgetTimes();
    }
  }

  dispose(): void {
    this.#isDisposed = true;
    this.#forgetRest();
    for (const { session } of this.#contestants) session.dispose();
  }

  get #first(): Session {
    return this.#contestants[0]!.session;
  }

  /** What all sessions are given: the input of a classifier, or the picture, which detectors scale themselves. */
  #prepare(image: ImageData): Float32Array | ImageData {
    return this.#preprocessing === undefined ? image : preprocess(image, this.#first.metadata);
  }

  async #run(input: Float32Array | ImageData): Promise<Answer[]> {
    const answers: Answer[] = [];
    for (const contestant of this.#contestants) {
      const { session, times } = contestant;
      const begin = performance.now();
      const found = input instanceof Float32Array ? await this.#classify(session, input) : await detect(contestant, input);
      times.push(performance.now() - begin);
      if (times.length > KEPT_TIMES) times.shift();
      answers.push({ activations: session.activations, classes: [], ...found, milliseconds: median(times) });
    }
    return answers;
  }

  async #classify(session: Session, input: Float32Array): Promise<Pick<Answer, "classes">> {
    const { channels, height, width } = this.#preprocessing!;
    const [logits] = Object.values(await session.run(input, [1, channels, height, width]));
    return { classes: topClasses(logits!.data, session.labels, TOP) };
  }

  #forgetRest(): void {
    if (this.#rest instanceof Response) void this.#rest.body?.cancel();
    this.#rest = undefined;
  }

  #forgetTimes(): void {
    for (const { times } of this.#contestants) times.length = 0;
  }

  #add(session: Session): void {
    const contestant: Contestant = { session, times: [] };
    this.#contestants.push(contestant);
    const task = readTask(session.metadata);
    if (task === "classification") {
      this.#preprocessing = readPreprocessing(session.metadata);
    } else if (task === "detection") {
      this.#contestants[this.#contestants.length - 1] = { ...contestant, detector: new Detector(session) };
    } else {
      throw new SternaError(
        `the page runs classifiers and RetinaNets, ${this.name} is for ${task}: masks need sterna run`,
      );
    }
  }
}

async function detect({ detector }: Contestant, image: ImageData): Promise<Pick<Answer, "objects">> {
  return { objects: await detector!.detect(image, { limit: MOST_OBJECTS }) };
}

/** Fetch a file once, for two to read. */
async function fetchTwice(name: string, address: URL, signal: AbortSignal): Promise<[Response, Response]> {
  let response: Response;
  try {
    response = await fetch(address, { signal });
  } catch (error) {
    signal.throwIfAborted();
    const reason = error instanceof Error ? error.message : String(error);
    throw new SternaError(`${name} cannot be fetched: ${navigator.onLine ? reason : "this device is offline"}`);
  }
  if (!response.ok) throw new SternaError(`${name} cannot be fetched: the server answers ${response.status}`);
  return [response, response.clone()];
}
