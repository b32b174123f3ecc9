/**
 * Sterna against ONNX Runtime Web in Node, one image, one thread, in turns:
 *
 *     npm ci && node node.js FOLDER [rounds] [--profile]
 *
 * FOLDER is what `make_models.py` wrote. Times are medians over the rounds; ratios are medians of those within rounds.
 */

import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";
import { openEngines } from "./engines.js";
import { median, ratio, takeTurns } from "./rounds.js";

const [folder, rounds = "15", flag] = process.argv.slice(2);
if (folder === undefined) {
  console.error("usage: node node.js FOLDER [rounds] [--profile]");
  process.exit(2);
}

const engines = await openEngines(async (name) => new Uint8Array(await readFile(`${folder}/${name}`)), ort);
const exact = (await engines["ONNX Runtime Web float32"].run()).slice();
const largest = Math.max(...exact.map(Math.abs));
const runs = Object.fromEntries(Object.entries(engines).map(([name, { run }]) => [name, run]));
const milliseconds = await takeTurns(runs, Number(rounds));

console.log(`Node ${process.version}, ONNX Runtime Web ${ort.env.versions.web}, ${rounds} rounds`);
console.log("| engine | ms | times as fast as ONNX Runtime Web float32 | int8 | file, bytes | largest error |");
console.log("|---|--:|--:|--:|--:|--:|");
for (const [name, { run, bytes }] of Object.entries(engines)) {
  const output = await run();
  const error = Math.max(...output.map((value, i) => Math.abs(value - exact[i]))) / largest;
  const times = ["float32", "int8"].map((precision) =>
    ratio(milliseconds[`ONNX Runtime Web ${precision}`], milliseconds[name]).toFixed(2),
  );
  console.log(`| ${name} | ${median(milliseconds[name]).toFixed(2)} | ${times.join(" | ")} | ${bytes} | ${error.toExponential(1)} |`);
}
if (flag === "--profile") {
  for (const [name, { profile }] of Object.entries(engines)) {
    if (profile === undefined) continue;
    console.log(`\n${name}`);
    for (const step of await profile()) {
      const speed = step.operations / step.milliseconds / 1e6;
      console.log(`${step.name.padEnd(32)} ${step.kernel.padEnd(14)} ${step.milliseconds.toFixed(3).padStart(8)} ms ${speed.toFixed(1).padStart(6)} G/s`);
    }
  }
}
