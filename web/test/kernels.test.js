// The kernels agree with plain loops: core/testing/kernels_test.cc, compiled to WebAssembly.

import assert from "node:assert/strict";
import { mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { WASI } from "node:wasi";

const NETWORKS = process.env.STERNA_KERNEL_NETWORKS ?? "20";

test("networks of chance give the bits of the reference, in every form of the kernels", async () => {
  const module = await WebAssembly.compile(readFileSync(new URL("../../build/web/kernels_test.wasm", import.meta.url)));
  const folder = mkdtempSync(join(tmpdir(), "sterna-kernels-"));
  try {
    const path = join(folder, "output");
    const args = ["kernels_test", "1", NETWORKS, "0"];
    const wasi = new WASI({ version: "preview1", args, stdout: openSync(path, "w"), returnOnExit: true });
    const status = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
    const text = readFileSync(path, "utf8");
    assert.match(text, /kernels: scalar, wasm, emulated tiles, the best are wasm/);
    assert.equal(status, 0, text);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
