/** The engines of the benchmarks, in one thread each: here and in ONNX Runtime Web. */

import { Session } from "../dist/index.js";

/**
 * Sterna and ONNX Runtime Web on one network.
 *
 * @param {(name: string) => Promise<Uint8Array>} read a file of the folder that `make_models.py` wrote.
 * @param {object} ort the module `onnxruntime-web`.
 * @param {{wasm?: string}} options for `Session.load`.
 * @returns by name: `run` computes and gives the output's numbers, and `bytes` are those of its file.
 */
export async function openEngines(read, ort, options = {}) {
  const input = new Float32Array((await read("input.f32")).slice().buffer);
  const engines = {};
  const file = await read("network.sterna");
  for (const activations of ["int8", "float32"]) {
    const session = await Session.load(file, { ...options, activations, worker: false });
    const run = async () => Object.values(await session.run(input))[0].data;
    engines[`Sterna ${activations}`] = { run, bytes: file.length, profile: () => session.profile() };
    engines.shape ??= [1, ...session.inputShape];
  }
  const { shape } = engines;
  delete engines.shape;
  ort.env.wasm.numThreads = 1;
  for (const precision of ["int8", "float32"]) {
    const bytes = await read(`${precision}.onnx`);
    const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], intraOpNumThreads: 1 });
    const tensor = new ort.Tensor("float32", input, shape);
    const run = async () => Object.values(await session.run({ [session.inputNames[0]]: tensor }))[0].data;
    engines[`ONNX Runtime Web ${precision}`] = { run, bytes: bytes.length };
  }
  return engines;
}
