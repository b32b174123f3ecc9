/** What a session needs of an engine, here or in a worker. */

import { type Activations, Engine, type Input, type LayerTime, type Tensor } from "./engine.js";
import { type Metadata, parseMetadata } from "./metadata.js";

/** What is known of a network when it is ready to run. */
export interface Loaded {
  readonly metadata: Metadata;
  readonly inputs: readonly Input[];
  /** Names. */
  readonly outputs: readonly string[];
  readonly parameters: number;
  readonly activations: "float32" | "int8";
}

export interface Backend {
  /** Give the next bytes of the file; the share of the weights that are decoded. */
  append(bytes: Uint8Array): Promise<number>;
  /** After the last byte. */
  finish(activations: Activations): Promise<Loaded>;
  /** The outputs that are wanted, by their names. */
  run(inputs: readonly Tensor[], wanted: readonly string[]): Promise<Record<string, Tensor>>;
  /** Times of the steps of as many runs. */
  profile(inputs: readonly Tensor[], runs: number): Promise<LayerTime[][]>;
  memoryBytes(): Promise<number>;
  close(): void;
}

/** An engine in this thread: it computes when it is asked, and nothing else happens meanwhile. */
export class LocalBackend implements Backend {
  #engine: Engine | null;

  constructor(module: WebAssembly.Module, graph: string | null) {
    this.#engine = new Engine(module);
    this.#engine.begin(graph);
  }

  async append(bytes: Uint8Array): Promise<number> {
    this.#own.append(bytes);
    while (this.#own.decode());
    return this.#own.decoded;
  }

  async finish(activations: Activations): Promise<Loaded> {
    const bytes = this.#own.check();
    const metadata = bytes === null ? {} : parseMetadata(bytes);
    this.#own.finish(activations);
    const { inputs, outputs, parameters, activations: chosen } = this.#own;
    return { metadata, inputs, outputs, parameters, activations: chosen };
  }

  async run(inputs: readonly Tensor[], wanted: readonly string[]): Promise<Record<string, Tensor>> {
    return this.#own.run(inputs, wanted);
  }

  async profile(inputs: readonly Tensor[], runs: number): Promise<LayerTime[][]> {
    return Array.from({ length: runs }, () => {
      this.#own.run(inputs, [], true);
      return this.#own.times();
    });
  }

  async memoryBytes(): Promise<number> {
    return this.#own.memoryBytes;
  }

  close(): void {
    this.#engine = null;
  }

  get #own(): Engine {
    if (this.#engine === null) throw new Error("closed");
    return this.#engine;
  }
}
