/** An engine in a thread of its own: answers the requests of `WorkerBackend`, one after the other. */

import { type Backend, LocalBackend } from "./backend.js";
import { SternaError } from "./errors.js";

/** A function of `Backend` and its arguments; the first one is `start`, with those of the constructor. */
export interface Request {
  readonly id: number;
  readonly name: Exclude<keyof Backend, "close"> | "start";
  readonly values: readonly unknown[];
}

export interface Reply {
  readonly id: number;
  readonly value?: unknown;
  /** Why there is no value. */
  readonly problem?: string;
  /** Whether that is a `SternaError`. */
  readonly isExpected?: boolean;
}

interface Port {
  postMessage(message: Reply): void;
}

let backend: LocalBackend | null = null;

async function answer({ name, values }: Request): Promise<unknown> {
  if (name === "start") {
    backend = new LocalBackend(...(values as [WebAssembly.Module, string | null]));
    return null;
  }
  const work = backend![name] as (...values: unknown[]) => Promise<unknown>;
  return work.apply(backend, [...values]);
}

async function receive(port: Port, request: Request): Promise<void> {
  const { id } = request;
  try {
    port.postMessage({ id, value: await answer(request) });
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    port.postMessage({ id, problem, isExpected: error instanceof SternaError });
  }
}

if ("WorkerGlobalScope" in globalThis) {
  const port = globalThis as unknown as Port;
  globalThis.addEventListener("message", (event) => void receive(port, (event as MessageEvent<Request>).data));
} else {
  const { parentPort } = await import("node:worker_threads");
  parentPort?.on("message", (request: Request) => void receive(parentPort, request));
}
