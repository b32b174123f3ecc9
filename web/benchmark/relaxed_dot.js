/**
 * How many products a second the dot products of WebAssembly make, in headless Chromium:
 *
 *     python -m pip install ziglang && npm ci && node relaxed_dot.js
 *
 * The plain one multiplies eight 16-bit numbers, the relaxed one sixteen numbers of 8 and 7 bits. CHROMIUM names the
 * browser, PYTHON the Python that has ziglang.
 */

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const PYTHON = process.env.PYTHON ?? "python3";
const FLAGS = ["-target", "wasm32-wasi", "-std=c++20", "-O3", "-msimd128", "-mrelaxed-simd", "-mexec-model=reactor",
  "-Wl,--no-entry", "-Wl,--strip-all"]; // prettier-ignore

const folder = mkdtempSync(join(tmpdir(), "sterna-dot-"));
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
try {
  const path = join(folder, "dot.wasm");
  const source = fileURLToPath(new URL("relaxed_dot.cc", import.meta.url));
  const made = spawnSync(PYTHON, ["-m", "ziglang", "c++", ...FLAGS, source, "-o", path], { encoding: "utf8" });
  if (made.status !== 0) throw new Error(made.stderr);
  const page = await browser.newPage();
  const found = await page.evaluate(measure, readFileSync(path).toString("base64"));
  console.log(`Chromium ${browser.version()}`);
  for (const [name, speed] of Object.entries(found)) console.log(`${name}: ${speed.toFixed(1)} G products/s`);
} finally {
  await browser.close();
  rmSync(folder, { recursive: true });
}

/** In the page: medians. */
function measure(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes));
  const RUNS = 20_000;
  const ROUNDS = 15;
  const found = {};
  for (const [name, lanes] of [["plain", 8], ["relaxed", 16]]) {
    exports[name](RUNS); // until the browser has optimised it
    const times = Array.from({ length: ROUNDS }, () => {
      const begin = performance.now();
      exports[name](RUNS);
      return performance.now() - begin;
    }).sort((a, b) => a - b);
    found[name] = (exports.products(lanes) * RUNS) / times[ROUNDS >> 1] / 1e6;
  }
  return found;
}
