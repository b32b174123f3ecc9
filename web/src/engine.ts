/**
 * The WebAssembly module (`web/native/exports.cc`) as a class: synchronous, one network an instance.
 *
 * An instance has memory of its own, which never shrinks, and is let go as a whole; so a session that is disposed leaves
 * nothing behind.
 */

import { SternaError } from "./errors.js";

/** Numbers in row-major order, the batch first. */
export interface Tensor {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

export interface Input {
  readonly name: string;
  /** Without the batch; 0 where any size will do. */
  readonly shape: readonly number[];
}

/** `"auto"` is int8 where the file has ranges for it. */
export type Activations = "float32" | "int8" | "auto";

/** A step of a run, as `profile` of `sterna.InferenceSession` tells it. */
export interface LayerTime {
  /** The place of its node in the network, or what the engine adds: `load`, `store`, `split phases`. */
  readonly name: string;
  /** Of its node; empty for what the engine adds. */
  readonly operator: string;
  /** That computed it. */
  readonly kernel: string;
  readonly milliseconds: number;
  /** Additions, or multiplications with their additions, that are useful: zeros do not count. */
  readonly operations: number;
}

interface Exports {
  readonly memory: WebAssembly.Memory;
  _initialize(): void;
  sterna_allocate(bytes: number): number;
  sterna_free(pointer: number): void;
  sterna_text(): number;
  sterna_text_bytes(): number;
  sterna_numbers(): number;
  sterna_number_count(): number;
  sterna_begin(name: number, bytes: number, isNamed: number): void;
  sterna_append(bytes: number, size: number): number;
  sterna_decode(): number;
  sterna_progress(): number;
  sterna_check(): number;
  sterna_finish(activations: number): number;
  sterna_is_int8(): number;
  sterna_tensor_count(): number;
  sterna_tensor(tensor: number): void;
  sterna_input_count(): number;
  sterna_input(input: number): void;
  sterna_input_room(input: number, sizes: number, rank: number): number;
  sterna_run(isTimed: number): number;
  sterna_output_count(): number;
  sterna_output_name(output: number): void;
  sterna_output(output: number): void;
  sterna_output_data(output: number): number;
  sterna_step_count(): number;
  sterna_step(step: number): void;
  sterna_node(node: number): void;
}

// As in exports.cc.
const DONE = 0;
const ACTIVATIONS: Record<Activations, number> = { float32: 0, int8: 1, auto: 2 };

const NANOSECONDS_PER_MILLISECOND = 1e6;
const SIZE_BYTES = 4;

export class Engine {
  readonly #exports: Exports;
  /** Why nothing can be called any more. */
  #end: string | null = null;

  /** @param module of `sterna.wasm`. */
  constructor(module: WebAssembly.Module) {
    const instance = new WebAssembly.Instance(module, {
      sterna: {
        out_of_memory: (bytes: number) => {
          throw new OutOfMemory(bytes);
        },
      },
      wasi_snapshot_preview1: {
        clock_time_get: (_clock: number, _precision: bigint, to: number) => {
          const nanoseconds = BigInt(Math.round(performance.now() * NANOSECONDS_PER_MILLISECOND));
          new DataView(this.#exports.memory.buffer).setBigUint64(to, nanoseconds, true);
          return 0;
        },
      },
    });
    this.#exports = instance.exports as unknown as Exports;
    this.#call(() => this.#exports._initialize());
  }

  /** Memory of the instance. */
  get memoryBytes(): number {
    return this.#exports.memory.buffer.byteLength;
  }

  /** Begin to load a file; `graph` is the name of its graph, or null for the first one. */
  begin(graph: string | null): void {
    const name = new TextEncoder().encode(graph ?? "");
    this.#with(name, (pointer) => this.#exports.sterna_begin(pointer, name.length, graph === null ? 0 : 1));
  }

  /**
   * Give the next bytes of the file.
   *
   * @throws SternaError they do not begin a `.sterna` file, or there is no memory for them.
   */
  append(bytes: Uint8Array): void {
    this.#with(bytes, (pointer) => this.#check(this.#exports.sterna_append(pointer, bytes.length)));
  }

  /** Decode a piece of what has arrived; false if there is nothing to decode now. */
  decode(): boolean {
    return this.#call(() => this.#exports.sterna_decode()) === DONE;
  }

  /** The share of the weights that have been decoded, 0 to 1. */
  get decoded(): number {
    return this.#exports.sterna_progress();
  }

  /**
   * Check the file after its last byte.
   *
   * @returns the bytes of its metadata; null where it has none.
   * @throws SternaError it breaks a rule of the format: which, where, what was got and what is allowed.
   */
  check(): Uint8Array | null {
    this.#call(() => this.#check(this.#exports.sterna_check()));
    const text = this.#bytes(this.#exports.sterna_text(), this.#exports.sterna_text_bytes()).slice();
    const metadata = this.#numbers()[0] === 0 ? null : text;
    const names = new Set<string>();
    for (let tensor = 0; tensor < this.#exports.sterna_tensor_count(); ++tensor) {
      const name = this.#tensorName(tensor);
      if (names.has(name)) throw new SternaError(`table: two tensors have the name '${name}'`);
      names.add(name);
    }
    return metadata;
  }

  /**
   * Make the network ready to run, after `check`.
   *
   * @throws SternaError the file has no such graph, the engine cannot run it, or it has no ranges for int8.
   */
  finish(activations: Activations): void {
    this.#call(() => this.#check(this.#exports.sterna_finish(ACTIVATIONS[activations])));
  }

  get activations(): "float32" | "int8" {
    return this.#exports.sterna_is_int8() !== 0 ? "int8" : "float32";
  }

  /** Numbers that the tensors of the file hold. */
  get parameters(): number {
    let total = 0;
    for (let tensor = 0; tensor < this.#exports.sterna_tensor_count(); ++tensor) {
      this.#exports.sterna_tensor(tensor);
      total += this.#numbers()[0]!;
    }
    return total;
  }

  get inputs(): Input[] {
    return Array.from({ length: this.#exports.sterna_input_count() }, (_, input) => {
      this.#exports.sterna_input(input);
      return { name: this.#text(), shape: this.#numbers() };
    });
  }

  /** Names, in the order of the graph. */
  get outputs(): string[] {
    return Array.from({ length: this.#exports.sterna_output_count() }, (_, output) => {
      this.#exports.sterna_output_name(output);
      return this.#text();
    });
  }

  /**
   * Compute the outputs for a batch.
   *
   * @param inputs one for each of `inputs`.
   * @param wanted the names of the outputs to give.
   * @param isTimed whether `times` are wanted afterwards.
   * @throws SternaError a shape that the network does not take, a number that is not finite, or not enough memory.
   */
  run(inputs: readonly Tensor[], wanted: readonly string[], isTimed = false): Record<string, Tensor> {
    const expected = this.#exports.sterna_input_count();
    if (inputs.length !== expected) {
      throw new SternaError(`the graph has ${expected} inputs, got ${inputs.length}`);
    }
    return this.#call(() => {
      inputs.forEach((input, index) => this.#write(input, index));
      this.#check(this.#exports.sterna_run(isTimed ? 1 : 0));
      const outputs: [string, Tensor][] = [];
      for (const [output, name] of this.outputs.entries()) {
        if (!wanted.includes(name)) continue;
        this.#exports.sterna_output(output);
        const shape = this.#numbers();
        const data = this.#floats(this.#exports.sterna_output_data(output), product(shape)).slice();
        outputs.push([name, { data, shape }]);
      }
      return Object.fromEntries(outputs);
    });
  }

  /** The steps of the last run, which was timed. */
  times(): LayerTime[] {
    return Array.from({ length: this.#exports.sterna_step_count() }, (_, step) => {
      this.#exports.sterna_step(step);
      const kernel = this.#text();
      const [seconds, operations, node] = this.#numbers() as [number, number, number];
      const milliseconds = seconds * 1e3;
      if (node < 0) return { name: kernel, operator: "", kernel, milliseconds, operations };
      this.#exports.sterna_node(node);
      const operator = this.#text();
      const tensor = this.#numbers()[0]!;
      const name = tensor < 0 ? `${node}` : this.#tensorName(tensor).replace(/\.weight$/, "");
      return { name, operator, kernel, milliseconds, operations };
    });
  }

  #write(input: Tensor, index: number): void {
    const { data, shape } = input;
    if (!shape.every((size) => Number.isInteger(size) && size >= 0 && size < 2 ** 32) || data.length !== product(shape)) {
      throw new SternaError(`an input of shape (${shape.join(", ")}) cannot have ${data.length} numbers`);
    }
    const sizes = new Uint8Array(Uint32Array.from(shape).buffer);
    const room = this.#with(sizes, (pointer) =>
      this.#exports.sterna_input_room(index, pointer, sizes.length / SIZE_BYTES),
    );
    if (room === 0) throw new SternaError(`not enough memory for an input of shape (${shape.join(", ")})`);
    this.#floats(room, data.length).set(data);
  }

  #tensorName(tensor: number): string {
    this.#exports.sterna_tensor(tensor);
    try {
      return this.#text(true);
    } catch {
      throw new SternaError(`table: the name of tensor ${tensor} is not UTF-8`);
    }
  }

  /** Call with a copy of bytes in the module's memory. */
  #with<T>(bytes: Uint8Array, work: (pointer: number) => T): T {
    return this.#call(() => {
      const pointer = this.#exports.sterna_allocate(Math.max(bytes.length, 1));
      if (pointer === 0) throw new SternaError(noMemory(bytes.length));
      this.#bytes(pointer, bytes.length).set(bytes);
      const free = (): void => this.#exports.sterna_free(pointer);
      try {
        const result = work(pointer);
        free();
        return result;
      } catch (error) {
        if (isHarmless(error)) free();
        throw error;
      }
    });
  }

  /** A call into the module; one that breaks off leaves it in a state that nobody knows, and it is not used again. */
  #call<T>(work: () => T): T {
    if (this.#end !== null) throw new SternaError(`the session has ended: ${this.#end}`);
    try {
      return work();
    } catch (error) {
      if (isHarmless(error)) throw error;
      this.#end = error instanceof OutOfMemory ? error.message : `the engine failed: ${String(error)}`;
      throw new SternaError(this.#end);
    }
  }

  #check(outcome: number): void {
    if (outcome !== DONE) throw new SternaError(this.#text());
  }

  #text(fatal = false): string {
    const bytes = this.#bytes(this.#exports.sterna_text(), this.#exports.sterna_text_bytes());
    return new TextDecoder("utf-8", { fatal, ignoreBOM: true }).decode(bytes);
  }

  #numbers(): number[] {
    const { buffer } = this.#exports.memory;
    return Array.from(new Float64Array(buffer, this.#exports.sterna_numbers(), this.#exports.sterna_number_count()));
  }

  #bytes(pointer: number, count: number): Uint8Array {
    return new Uint8Array(this.#exports.memory.buffer, pointer >>> 0, count);
  }

  #floats(pointer: number, count: number): Float32Array {
    return new Float32Array(this.#exports.memory.buffer, pointer >>> 0, count);
  }
}

/** Thrown through frames of the module, which cannot go on. */
class OutOfMemory extends Error {
  constructor(bytes: number) {
    super(noMemory(bytes >>> 0));
  }
}

function noMemory(bytes: number): string {
  return `not enough memory: ${bytes} bytes more are not there`;
}

/** Whether the module can be used after it. */
function isHarmless(error: unknown): boolean {
  return error instanceof SternaError;
}

function product(shape: readonly number[]): number {
  return shape.reduce((total, size) => total * size, 1);
}
