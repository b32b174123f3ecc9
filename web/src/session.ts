/** A network that is ready to run: the one entrance for users. */

import { type Backend, type Loaded, LocalBackend } from "./backend.js";
import { type Classification, topClasses } from "./classes.js";
import type { LayerTime, Tensor } from "./engine.js";
import { SternaError } from "./errors.js";
import { median } from "./median.js";
import { type Metadata, readLabels, readPreprocessing } from "./metadata.js";
import { compile, type WasmSource } from "./module.js";
import { type Picture, pixelsOf } from "./picture.js";
import { preparePicture } from "./preprocessing.js";
import { open, type Source } from "./source.js";
import { WorkerBackend } from "./worker_backend.js";

export interface Progress {
  /** Bytes that have arrived. */
  readonly loaded: number;
  /** Bytes of the file, where they are known. */
  readonly total?: number;
  /** The share of the weights that have been decoded, 0 to 1. */
  readonly decoded: number;
}

export interface LoadOptions {
  readonly onProgress?: (progress: Progress) => void;
  /** `"int8"` quantizes activations to 8 bits; by default where the file has ranges for it (`sterna calibrate`). */
  readonly activations?: "float32" | "int8";
  readonly signal?: AbortSignal;
  /** Compute in a thread of its own; by default in browsers, and not in Node. */
  readonly worker?: boolean;
  /** Where `sterna.wasm` is; by default beside this module. */
  readonly wasm?: WasmSource;
  /** Name of the graph; by default the first one: the whole network, or of a detector `backbone`, what sees the picture. */
  readonly graph?: string;
}

export class Session {
  /** The JSON object in the file. */
  readonly metadata: Metadata;
  /** Names of the classes; none where the file has none. */
  readonly labels: string[];
  /** Of an image that the network was made for: channels, height, width; 0 where any size will do. */
  readonly inputShape: readonly number[];
  /** Names of what the network answers. */
  readonly outputs: readonly string[];
  /** Of the file. */
  readonly bytes: number;
  /** Numbers that the tensors of the file hold; four times as many are their bytes in float32. */
  readonly parameters: number;
  readonly activations: "float32" | "int8";

  #backend: Backend | null;
  readonly #inputs: Loaded["inputs"];

  private constructor(backend: Backend, loaded: Loaded, bytes: number) {
    this.#backend = backend;
    this.#inputs = loaded.inputs;
    this.metadata = loaded.metadata;
    this.labels = readLabels(loaded.metadata);
    this.inputShape = loaded.inputs[0]?.shape ?? [];
    this.outputs = loaded.outputs;
    this.bytes = bytes;
    this.parameters = loaded.parameters;
    this.activations = loaded.activations;
  }

  /**
   * Load a `.sterna` file. Its weights are decoded while it arrives; it is checked as a whole before anything else.
   *
   * @param source an address, in Node also a path; or the bytes of the file.
   * @throws SternaError it cannot be fetched, breaks a rule of the format, or cannot be run.
   * @throws the reason of `signal` if that is aborted.
   */
  static async load(source: Source, options: LoadOptions = {}): Promise<Session> {
    const { activations = "auto", graph = null, signal, onProgress } = options;
    const { total, pieces } = await open(source, signal);
    const module = await compile(options.wasm);
    const isWorker = options.worker ?? typeof document !== "undefined";
    const backend = isWorker ? await WorkerBackend.start(module, graph) : new LocalBackend(module, graph);
    try {
      let loaded = 0;
      for await (const piece of pieces) {
        signal?.throwIfAborted();
        const decoded = await backend.append(piece);
        loaded += piece.length;
        onProgress?.({ loaded, ...(total !== undefined && { total }), decoded });
      }
      signal?.throwIfAborted();
      const session = new Session(backend, await backend.finish(activations), loaded);
      onProgress?.({ loaded, total: loaded, decoded: 1 });
      return session;
    } catch (error) {
      backend.close();
      throw error;
    }
  }

  /**
   * Compute the outputs for a picture or a batch. Runs of one session wait for each other; one that fails changes
   * nothing for the others.
   *
   * @param input a picture, which is prepared as the metadata say; numbers of shape `(N, C, H, W)`; or such numbers and
   *     their shapes by the names of the network's inputs.
   * @param shape of numbers; by default one image, or several, of `inputShape`.
   * @param wanted the names of the outputs to give; by default all.
   * @returns the outputs by their names.
   * @throws SternaError a shape that the network does not take, a number that is not finite, or not enough memory.
   */
  async run(
    input: Float32Array | Picture | Readonly<Record<string, Tensor>>,
    shape?: readonly number[],
    wanted: readonly string[] = this.outputs,
  ): Promise<Record<string, Tensor>> {
    return this.#own.run(this.#tensors(input, shape), wanted);
  }

  /**
   * The most probable classes of a picture.
   *
   * @param picture to prepare as the metadata say, or the numbers of one image.
   * @param top how many classes; all of them where there are fewer.
   * @throws SternaError as `run`; or the network is no classifier.
   */
  async classify(picture: Float32Array | Picture, top = 5): Promise<Classification[]> {
    const outputs = Object.values(await this.run(picture));
    const logits = outputs[0];
    if (outputs.length !== 1 || logits?.shape.length !== 2 || logits.shape[0] !== 1) {
      const shapes = outputs.map((output) => `(${output.shape.join(", ")})`).join(", ");
      throw new SternaError(`a classifier answers with one output of shape (1, classes), got ${shapes}`);
    }
    return topClasses(logits.data, this.labels, top);
  }

  /**
   * Time each step for one image of `inputShape`.
   *
   * @param runs of which the median is taken, after one that does not count.
   * @throws SternaError as `run`.
   */
  async profile(runs = 20): Promise<LayerTime[]> {
    const inputs = this.#inputs.map(({ shape }) => zeros([1, ...shape]));
    await this.#own.run(inputs, []);
    const times = await this.#own.profile(inputs, runs);
    return times[0]!.map((step, place) => ({
      ...step,
      milliseconds: median(times.map((run) => run[place]!.milliseconds)),
    }));
  }

  /** Memory of the WebAssembly instance, which grows and never shrinks before `dispose`. */
  async memoryBytes(): Promise<number> {
    return this.#own.memoryBytes();
  }

  /** Free all memory. Runs that have no answer yet are refused with a `SternaError`, as those after it are. */
  dispose(): void {
    this.#backend?.close();
    this.#backend = null;
  }

  get #own(): Backend {
    if (this.#backend === null) throw new SternaError("the session is disposed");
    return this.#backend;
  }

  #tensors(input: Float32Array | Picture | Readonly<Record<string, Tensor>>, shape?: readonly number[]): Tensor[] {
    if (input instanceof Float32Array) return [{ data: input, shape: shape ?? this.#batchShape(input.length) }];
    if (isTensors(input)) {
      return this.#inputs.map(({ name }) => {
        const tensor = Object.hasOwn(input, name) ? input[name] : undefined;
        if (tensor !== undefined) return tensor;
        throw new SternaError(`the graph has an input '${name}', got ${Object.keys(input).join(", ") || "none"}`);
      });
    }
    // The file may name another size than the one that its graph was made with.
    const preprocessing = readPreprocessing(this.metadata);
    const { channels, height, width } = preprocessing;
    return [{ data: preparePicture(pixelsOf(input), preprocessing), shape: [1, channels, height, width] }];
  }

  #batchShape(count: number): number[] {
    const each = this.inputShape.reduce((total, size) => total * size, 1);
    if (each === 0 || count === 0 || count % each !== 0) {
      throw new SternaError(
        `${count} numbers are no images of shape (${this.inputShape.join(", ")}): give their shape, (N, C, H, W)`,
      );
    }
    return [count / each, ...this.inputShape];
  }
}

function isTensors(input: Picture | Readonly<Record<string, Tensor>>): input is Readonly<Record<string, Tensor>> {
  const prototype: unknown = Object.getPrototypeOf(input);
  return (prototype === Object.prototype || prototype === null) && !("width" in input && "data" in input);
}

function zeros(shape: readonly number[]): Tensor {
  return { data: new Float32Array(shape.reduce((total, size) => total * size, 1)), shape };
}
