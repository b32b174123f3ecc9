/** The engine of `worker.ts`, from outside. */

import type { Backend, Loaded } from "./backend.js";
import type { Activations, LayerTime, Tensor } from "./engine.js";
import { SternaError } from "./errors.js";
import type { Reply, Request } from "./worker.js";

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** A thread in a browser or in Node. */
interface Thread {
  post(request: Request, transfer: ArrayBuffer[]): void;
  terminate(): void;
}

export class WorkerBackend implements Backend {
  readonly #thread: Thread;
  readonly #waiting = new Map<number, Waiting>();
  #next = 0;

  private constructor(open: (receive: (reply: Reply) => void, fail: (problem: string) => void) => Thread) {
    this.#thread = open(
      (reply) => this.#receive(reply),
      (problem) => this.#rejectAll(new Error(`the worker failed: ${problem}`)),
    );
  }

  /** Start a thread with an engine. */
  static async start(module: WebAssembly.Module, graph: string | null): Promise<WorkerBackend> {
    const backend = new WorkerBackend(typeof Worker === "function" ? openWorker : await nodeThread());
    await backend.#ask("start", [module, graph]);
    return backend;
  }

  async append(bytes: Uint8Array): Promise<number> {
    // What is sent is gone here, so a copy is.
    const copy = bytes.slice();
    return (await this.#ask("append", [copy], [copy.buffer])) as number;
  }

  async finish(activations: Activations): Promise<Loaded> {
    return (await this.#ask("finish", [activations])) as Loaded;
  }

  async run(inputs: readonly Tensor[], wanted: readonly string[]): Promise<Record<string, Tensor>> {
    return (await this.#ask("run", [inputs, wanted])) as Record<string, Tensor>;
  }

  async profile(inputs: readonly Tensor[], runs: number): Promise<LayerTime[][]> {
    return (await this.#ask("profile", [inputs, runs])) as LayerTime[][];
  }

  async memoryBytes(): Promise<number> {
    return (await this.#ask("memoryBytes", [])) as number;
  }

  close(): void {
    this.#thread.terminate();
    this.#rejectAll(new SternaError("the session was disposed before it had an answer"));
  }

  #ask(name: Request["name"], values: readonly unknown[], transfer: ArrayBuffer[] = []): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      this.#waiting.set(id, { resolve, reject });
      this.#thread.post({ id, name, values }, transfer);
    });
  }

  #receive({ id, value, problem, isExpected }: Reply): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (problem === undefined) {
      waiting?.resolve(value);
    } else {
      waiting?.reject(isExpected === true ? new SternaError(problem) : new Error(problem));
    }
  }

  #rejectAll(error: Error): void {
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
  }
}

function openWorker(receive: (reply: Reply) => void, fail: (problem: string) => void): Thread {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  worker.addEventListener("message", (event: MessageEvent<Reply>) => receive(event.data));
  worker.addEventListener("error", (event) => fail(event.message));
  return {
    post: (request, transfer) => worker.postMessage(request, transfer),
    terminate: () => worker.terminate(),
  };
}

async function nodeThread(): Promise<typeof openWorker> {
  const { Worker: NodeWorker } = await import("node:worker_threads");
  return (receive, fail) => {
    const worker = new NodeWorker(new URL("./worker.js", import.meta.url));
    worker.on("message", receive);
    worker.on("error", (error: Error) => fail(error.message));
    return {
      post: (request, transfer) => worker.postMessage(request, transfer),
      terminate: () => void worker.terminate(),
    };
  };
}
