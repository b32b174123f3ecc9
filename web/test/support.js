// What the tests share: the files that make_networks.py writes.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const PYTHON = process.env.PYTHON ?? "python3";
const SCRIPT = fileURLToPath(new URL("make_networks.py", import.meta.url));

export const GOLDEN = fileURLToPath(new URL("../../tests/golden", import.meta.url));

export class Networks {
  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), "sterna-networks-"));
    const made = spawnSync(PYTHON, [SCRIPT, this.folder], { encoding: "utf8" });
    assert.equal(made.status, 0, `${PYTHON} must have sterna: ${made.stderr ?? made.error}`);
    this.runs = JSON.parse(readFileSync(this.path("networks.json"), "utf8"));
    this.bad = JSON.parse(readFileSync(this.path("bad.json"), "utf8"));
  }

  path(name) {
    return join(this.folder, name);
  }

  file(name = "0.sterna") {
    return new Uint8Array(readFileSync(this.path(name)));
  }

  floats(name) {
    const bytes = readFileSync(this.path(name));
    return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  }

  remove() {
    rmSync(this.folder, { recursive: true });
  }
}

/** A response whose body comes in pieces of these sizes, again and again. */
export function inPieces(bytes, sizes) {
  let at = 0;
  let next = 0;
  const pull = (controller) => {
    const size = sizes[next++ % sizes.length];
    if (at < bytes.length) controller.enqueue(bytes.slice(at, at + size));
    at += size;
    if (at >= bytes.length) controller.close();
  };
  return new Response(new ReadableStream({ pull }));
}
