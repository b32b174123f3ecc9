/** Where files come from: addresses, files of Node, and bytes that are there. */

import { SternaError } from "./errors.js";

export type Source = string | URL | Uint8Array | ArrayBuffer | Response | Blob;

/** The bytes of a file in pieces, and how many they will be, if that is known. */
export interface Pieces {
  readonly total?: number;
  readonly pieces: AsyncIterable<Uint8Array>;
}

// Of bytes that are all there: small enough for progress to be seen.
const PIECE_BYTES = 1 << 18;

const isNode = typeof process !== "undefined" && process.versions?.node !== undefined;

/**
 * Open a source.
 *
 * @throws SternaError it cannot be fetched or opened.
 */
export async function open(source: Source, signal?: AbortSignal): Promise<Pieces> {
  signal?.throwIfAborted();
  if (source instanceof Uint8Array) return ofBytes(source);
  if (source instanceof ArrayBuffer) return ofBytes(new Uint8Array(source));
  if (source instanceof Blob) return { total: source.size, pieces: ofStream(source.stream(), "the file") };
  if (source instanceof Response) return ofResponse(source);
  const path = nodePath(source);
  return path !== null ? ofPath(path) : ofResponse(await fetchFrom(source, signal), String(source));
}

/** All bytes of a source; for what is not streamed. */
export async function readAll(source: string | URL): Promise<Uint8Array<ArrayBuffer>> {
  const path = nodePath(source);
  if (path === null) return new Uint8Array(await (await fetchFrom(source)).arrayBuffer());
  const { readFile } = await import("node:fs/promises");
  return new Uint8Array(await readFile(path).catch((error: Error) => fail(String(source), error)));
}

/** Fetch an address. */
export async function fetchFrom(source: string | URL, signal?: AbortSignal): Promise<Response> {
  const response = await fetch(source, signal === undefined ? {} : { signal }).catch((error: Error) => {
    signal?.throwIfAborted();
    return fail(String(source), error);
  });
  if (!response.ok) throw new SternaError(`${String(source)} cannot be fetched: HTTP status ${response.status}`);
  return response;
}

/** The path of a file of Node; null where there are none, and for other addresses. */
export function nodePath(source: string | URL): string | URL | null {
  if (!isNode) return null;
  if (source instanceof URL) return source.protocol === "file:" ? source : null;
  if (/^file:/.test(source)) return new URL(source);
  return /^(https?|data|blob):/.test(source) ? null : source;
}

function ofBytes(bytes: Uint8Array): Pieces {
  async function* pieces(): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) yield bytes.subarray(at, at + PIECE_BYTES);
  }
  return { total: bytes.length, pieces: pieces() };
}

function ofResponse(response: Response, name = response.url || "the response"): Pieces {
  if (!response.ok) throw new SternaError(`${name} cannot be fetched: HTTP status ${response.status}`);
  if (response.body === null) throw new SternaError(`${name} has no bytes`);
  const length = response.headers.get("content-length");
  // With an encoding it counts other bytes.
  const isExact = length !== null && response.headers.get("content-encoding") === null;
  return { ...(isExact && { total: Number(length) }), pieces: ofStream(response.body, name) };
}

// Not all browsers iterate over streams.
async function* ofStream(stream: ReadableStream<Uint8Array>, name: string): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error: Error) => fail(name, error));
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

async function ofPath(path: string | URL): Promise<Pieces> {
  const { open } = await import("node:fs/promises");
  const file = await open(path).catch((error: Error) => fail(String(path), error));
  const { size } = await file.stat();
  const stream = file.createReadStream({ highWaterMark: PIECE_BYTES });
  async function* pieces(): AsyncGenerator<Uint8Array> {
    try {
      for await (const piece of stream) yield piece as Uint8Array;
    } catch (error) {
      fail(String(path), error as Error);
    }
  }
  return { total: size, pieces: pieces() };
}

function fail(name: string, error: Error): never {
  // Others have been aborted, which their caller knows best.
  if (error.name === "AbortError") throw error;
  throw new SternaError(`${name} cannot be read: ${error.message}`);
}
