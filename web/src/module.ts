/** Compiles the WebAssembly module, each address once. */

import { SternaError } from "./errors.js";
import { fetchFrom, nodePath, readAll } from "./source.js";

export type WasmSource = string | URL | BufferSource;

const compiled = new Map<string, Promise<WebAssembly.Module>>();

/**
 * The module from an address or its bytes; by default the one beside this file.
 *
 * @throws SternaError it cannot be fetched, or is not what this engine can load.
 */
export async function compile(source: WasmSource = new URL("./sterna.wasm", import.meta.url)): Promise<WebAssembly.Module> {
  if (typeof source !== "string" && !(source instanceof URL)) return fromBytes(source);
  const key = String(source);
  let module = compiled.get(key);
  if (module === undefined) {
    module = fromAddress(source);
    compiled.set(key, module);
    // What failed once may be there next time.
    module.catch(() => compiled.delete(key));
  }
  return module;
}

async function fromAddress(source: string | URL): Promise<WebAssembly.Module> {
  if (nodePath(source) !== null) return fromBytes(await readAll(source));
  const response = await fetchFrom(source);
  // Servers that do not know the type of the file: without it no browser compiles while it arrives.
  const isTyped = response.headers.get("content-type")?.startsWith("application/wasm") ?? false;
  if (!isTyped) return fromBytes(await response.arrayBuffer());
  return WebAssembly.compileStreaming(response).catch(refuse);
}

function fromBytes(bytes: BufferSource): Promise<WebAssembly.Module> {
  return WebAssembly.compile(bytes).catch(refuse);
}

function refuse(error: Error): never {
  throw new SternaError(`the WebAssembly module cannot be compiled: ${error.message}`);
}
