/**
 * Sterna against ONNX Runtime Web in headless Chromium, one image, one thread:
 *
 *     npm ci && node browser.js FOLDER [rounds]              a run, in one page, in turns
 *     npm ci && node browser.js FOLDER [rounds] --first=code from navigation to the first result, at 10 Mbit/s
 *
 * FOLDER is what `make_models.py` wrote; CHROMIUM names the browser. After `--first=` stands what the server compresses:
 * `code`, as servers of static files do, `all`, or `none`. Times are medians, ratios those within rounds.
 */

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { chromium } from "playwright-core";

import { median, ratio } from "./rounds.js";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"]; // prettier-ignore
const WEB = fileURLToPath(new URL("..", import.meta.url));
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };
// The net of a phone: what comes down, and how long the first byte takes.
const MEGABITS = 10;
const ROUND_TRIP_MS = 40;
const CODE = [".html", ".js", ".mjs", ".wasm"];
const COMPRESSED = { code: CODE, all: [...CODE, ".onnx", ".sterna"], none: [] };

const [folder, rounds = "15", flag] = process.argv.slice(2);
const compressed = flag === undefined ? [] : COMPRESSED[flag.replace("--first=", "")];
if (folder === undefined || compressed === undefined) {
  console.error("usage: node browser.js FOLDER [rounds] [--first=code|all|none]");
  process.exit(2);
}

const site = await serve();
const browser = await chromium.launch({ executablePath: CHROMIUM, args: SWITCHES });
try {
  console.log(`Chromium ${browser.version()}, ${rounds} rounds\n`);
  await (flag === undefined ? timeRuns() : timeFirstResults());
} finally {
  await browser.close();
  site.server.close();
}

/** All engines in one page. */
async function timeRuns() {
  const page = await openPage("run.html");
  const { milliseconds, bytes } = await page.evaluate((rounds) => globalThis.timeRuns(rounds), Number(rounds));
  console.log("| engine | ms | times as fast as ONNX Runtime Web float32 | int8 | file, bytes |");
  console.log("|---|--:|--:|--:|--:|");
  for (const [name, values] of Object.entries(milliseconds)) {
    const times = ["float32", "int8"].map((precision) =>
      ratio(milliseconds[`ONNX Runtime Web ${precision}`], values).toFixed(2),
    );
    console.log(`| ${name} | ${median(values).toFixed(2)} | ${times.join(" | ")} | ${bytes[name]} |`);
  }
}

/** Each engine in a page of its own, with nothing cached. */
async function timeFirstResults() {
  const addresses = { "Sterna int8": "first-sterna.html", "ONNX Runtime Web int8": "first-onnx.html" };
  const seconds = Object.fromEntries(Object.keys(addresses).map((name) => [name, []]));
  const bytes = {};
  for (let round = 0; round < Number(rounds); ++round) {
    for (const [name, address] of Object.entries(addresses)) {
      site.sent = 0;
      const page = await openPage(address, { isSlow: true });
      const first = await page.waitForFunction(() => globalThis.firstResult, null, { timeout: 120_000 });
      seconds[name].push((await first.jsonValue()) / 1e3);
      bytes[name] = site.sent;
      await page.context().close();
    }
  }
  console.log("| engine | first result, s | times as soon as ONNX Runtime Web | bytes sent |");
  console.log("|---|--:|--:|--:|");
  for (const [name, values] of Object.entries(seconds)) {
    const times = ratio(seconds["ONNX Runtime Web int8"], values).toFixed(1);
    console.log(`| ${name} | ${median(values).toFixed(2)} | ${times} | ${bytes[name]} |`);
  }
}

async function openPage(name, { isSlow = false } = {}) {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.on("pageerror", (error) => {
    throw error;
  });
  if (isSlow) {
    const session = await context.newCDPSession(page);
    await session.send("Network.enable");
    await session.send("Network.emulateNetworkConditions", {
      offline: false,
      latency: ROUND_TRIP_MS,
      downloadThroughput: (MEGABITS * 1e6) / 8,
      uploadThroughput: (MEGABITS * 1e6) / 8,
    });
  }
  await page.goto(`${site.address}/benchmark/${name}`);
  return page;
}

/** The folder `web/`, the models under `/models/`, and ONNX Runtime Web under `/ort/`. */
async function serve() {
  const roots = {
    "/models/": resolve(folder),
    "/ort/": fileURLToPath(new URL(".", import.meta.resolve("onnxruntime-web"))),
    "/": WEB,
  };
  const found = { sent: 0 };
  const contents = new Map();
  found.server = createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const [prefix, root] = Object.entries(roots).find(([prefix]) => pathname.startsWith(prefix));
    const path = resolve(root, pathname.slice(prefix.length));
    if (!path.startsWith(resolve(root) + sep)) return response.writeHead(404).end();
    const type = extname(path);
    const isCompressed = compressed.includes(type);
    const key = `${isCompressed} ${path}`;
    try {
      if (!contents.has(key)) contents.set(key, isCompressed ? gzipSync(readFileSync(path)) : readFileSync(path));
    } catch {
      return response.writeHead(404).end();
    }
    const content = contents.get(key);
    found.sent += content.length;
    response.setHeader("Content-Type", TYPES[type] ?? "application/octet-stream");
    response.setHeader("Content-Length", content.length);
    response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
    response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
    if (isCompressed) response.setHeader("Content-Encoding", "gzip");
    return response.end(content);
  });
  await new Promise((ready) => found.server.listen(0, "127.0.0.1", ready));
  found.address = `http://127.0.0.1:${found.server.address().port}`;
  return found;
}
