// Sessions give what the native engine gives, whatever the way of the file, and stay usable after mistakes.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";

import { Session, SternaError } from "../dist/index.js";
import { GOLDEN, inPieces, Networks } from "./support.js";

// Of the largest output: sums of float32 in another order.
const TOLERANCE = 1e-5;
const SHAPE = [1, 3, 16, 16];
const COUNT = 3 * 16 * 16;

let networks;
let file;
let input;
let expected;

before(async () => {
  networks = new Networks();
  file = networks.file();
  input = networks.floats("0.0.input");
  expected = networks.floats("0.0.int8.scalar");
});
after(() => networks.remove());

async function withSession(options, work, source = file) {
  const session = await Session.load(source, options);
  try {
    return await work(session);
  } finally {
    session.dispose();
  }
}

async function output(session, numbers = input, shape = SHAPE) {
  return (await session.run(numbers, shape)).output;
}

function refuses(work, pattern) {
  return assert.rejects(work, (error) => {
    assert.ok(error instanceof SternaError, `not a SternaError: ${error.stack}`);
    assert.match(error.message, pattern);
    return true;
  });
}

describe("outputs", () => {
  test("int8 is that of every native instruction set to the bit", async () => {
    let compared = 0;
    for (const run of networks.runs.filter(({ activations }) => activations === "int8")) {
      await withSession({ activations: "int8" }, async (session) => {
        const { data } = await output(session, networks.floats(run.input), run.shape);
        for (const name of Object.values(run.outputs)) {
          assert.deepEqual(new Uint32Array(data.buffer), new Uint32Array(networks.floats(name).buffer), name);
          ++compared;
        }
      }, networks.path(run.file));
    }
    assert.ok(compared >= 12, `only ${compared} outputs were compared`);
  });

  test("float32 is near that of every native instruction set", async () => {
    for (const run of networks.runs.filter(({ activations }) => activations === "float32")) {
      await withSession({ activations: "float32" }, async (session) => {
        const { data } = await output(session, networks.floats(run.input), run.shape);
        for (const name of Object.values(run.outputs)) {
          const native = networks.floats(name);
          assert.equal(data.length, native.length);
          const largest = native.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
          data.forEach((value, i) => assert.ok(Math.abs(value - native[i]) <= TOLERANCE * largest, name));
        }
      }, networks.path(run.file));
    }
  });

  test("a worker gives the same, and more than one session may be open", async () => {
    await withSession({ worker: true }, async (threaded) => {
      await withSession({ worker: false }, async (local) => {
        const runs = [threaded, local, threaded, local].map((session) => output(session));
        for (const { data, shape } of await Promise.all(runs)) {
          assert.deepEqual(data, expected);
          assert.deepEqual(shape, [1, 5]);
        }
      });
    });
  });

  test("classes are sorted and named", async () => {
    await withSession({}, async (session) => {
      const classes = await session.classify(input);
      assert.equal(classes.length, 5);
      assert.deepEqual(classes.map(({ label }) => label).sort(), ["a", "b", "c", "d", "e"]);
      assert.equal(classes[0].index, expected.indexOf(Math.max(...expected)));
      assert.equal(classes[0].label, session.labels[classes[0].index]);
      assert.ok(Math.abs(classes.reduce((sum, { probability }) => sum + probability, 0) - 1) < 1e-9);
    });
  });

  test("inputs have names", async () => {
    await withSession({}, async (session) => {
      const named = await session.run({ input: { data: input, shape: SHAPE } });
      assert.deepEqual(named.output.data, expected);
      await refuses(session.run({ other: { data: input, shape: SHAPE } }), /input 'input', got other/);
    });
  });

  test("a profile lists the steps", async () => {
    await withSession({}, async (session) => {
      const steps = await session.profile(3);
      const second = steps.find(({ name }) => name === "second");
      assert.equal(second.operator, "conv2d");
      assert.match(second.kernel, /^sparse/);
      assert.ok(second.operations > 0 && second.milliseconds >= 0);
      assert.deepEqual((await output(session)).data, expected);
    });
  });
});

describe("loading", () => {
  test("what a file says is known", async () => {
    await withSession({}, async (session) => {
      assert.equal(session.activations, "int8");
      assert.deepEqual(session.inputShape, [3, 16, 16]);
      assert.equal(session.bytes, file.length);
      assert.equal(session.parameters, 8 * 27 + 8 * 72 + 8 * 9 + 5 * 8 + 5 + 6 * 8);
      assert.deepEqual(session.metadata.labels, session.labels);
    });
  });

  test("all kinds of sources give the same", async () => {
    const path = networks.path("0.sterna");
    const sources = [path, pathToFileURL(path), file, file.slice().buffer, new Blob([file]), new Response(file)];
    for (const source of sources) {
      await withSession({}, async (session) => assert.deepEqual((await output(session)).data, expected), source);
    }
  });

  test("pieces of any size give the same", async () => {
    for (const sizes of [[1], [7], [64, 1, 500], [file.length - 1], [file.length], [1, 100000]]) {
      const seen = [];
      const onProgress = (progress) => seen.push(progress);
      await withSession({ onProgress }, async (session) => {
        assert.deepEqual((await output(session)).data, expected);
      }, inPieces(file, sizes));
      seen.forEach(({ decoded }, i) => assert.ok(decoded >= (seen[i - 1]?.decoded ?? 0) && decoded <= 1));
      assert.equal(seen.at(-1).loaded, file.length);
      assert.equal(seen.at(-1).decoded, 1);
    }
  });

  test("weights are decoded before the last byte", async () => {
    const seen = [];
    await withSession({ onProgress: (progress) => seen.push(progress) }, () => undefined, inPieces(file, [1]));
    assert.ok(seen.find(({ loaded }) => loaded === file.length - 1).decoded === 1);
    assert.ok(seen.find(({ loaded }) => loaded === file.length / 4 >> 0).decoded < 1);
  });

  test("a file that ends early is refused, wherever", async () => {
    for (let size = 0; size < file.length; size += 97) {
      await refuses(Session.load(inPieces(file.slice(0, size), [500])), /^truncated: /);
    }
  });

  test("a byte that is changed is found, wherever", async () => {
    for (let at = 0; at < file.length; at += 53) {
      const changed = file.slice();
      changed[at] ^= 0x10;
      await refuses(Session.load(inPieces(changed, [300])), /^[a-z]+: .*\(at offset \d+\)/);
    }
  });

  test("what is no file is refused at its first bytes", async () => {
    let pulled = 0;
    const endless = new ReadableStream({
      pull(controller) {
        ++pulled;
        controller.enqueue(new TextEncoder().encode("<!doctype html><title>not found</title>"));
      },
    });
    await refuses(Session.load(new Response(endless)), /^magic: not a \.sterna file/);
    assert.ok(pulled < 10);
  });

  test("every golden bad file is refused for what the reader says, and others are loaded after it", async () => {
    let faults = 0;
    for (const [name, { is_fault, text }] of Object.entries(networks.bad)) {
      for (const sizes of [[1 << 20], [13]]) {
        const bytes = new Uint8Array(readFileSync(join(GOLDEN, "bad", name)));
        await assert.rejects(Session.load(inPieces(bytes, sizes)), (error) => {
          assert.ok(error instanceof SternaError, `${name}: ${error.stack}`);
          if (is_fault) assert.equal(error.message, text, name);
          return true;
        });
      }
      faults += is_fault;
    }
    assert.ok(faults >= 60, `only ${faults} are faults of the file`);
    await withSession({}, async (session) => assert.deepEqual((await output(session)).data, expected));
  });

  test("sources that are not there are refused", async () => {
    await refuses(Session.load("no such file.sterna"), /no such file\.sterna cannot be read: ENOENT/);
    await refuses(Session.load("http://127.0.0.1:9/model.sterna"), /127\.0\.0\.1:9\/model\.sterna cannot be read/);
    await refuses(Session.load(new Response("no", { status: 404 })), /HTTP status 404/);
    await refuses(Session.load(file, { wasm: new Uint8Array(8) }), /cannot be compiled/);
  });

  test("options that do not fit are refused", async () => {
    await refuses(Session.load(file, { graph: "head" }), /no graph of the name 'head'; it has ''/);
    await refuses(Session.load(join(GOLDEN, "good.sterna")), /holds no graph to run/);
  });

  test("it can be given up", async () => {
    const reason = new Error("changed my mind");
    await assert.rejects(Session.load(file, { signal: AbortSignal.abort(reason) }), reason);
    const controller = new AbortController();
    const onProgress = () => controller.abort(reason);
    await assert.rejects(Session.load(inPieces(file, [100]), { signal: controller.signal, onProgress }), reason);
  });
});

describe("mistakes and memory", () => {
  test("a wrong run changes nothing for the next", async () => {
    for (const worker of [false, true]) {
      await withSession({ worker }, async (session) => {
        await refuses(session.run(new Float32Array(7)), /7 numbers are no images of shape \(3, 16, 16\)/);
        await refuses(session.run(new Float32Array(0)), /0 numbers/);
        await refuses(session.run(input, [1, 3, 16, 15]), /cannot have 768 numbers/);
        await refuses(session.run(input, [1, 4, 16, 12]), /must have shape \(N, 3, H, W\)/);
        await refuses(session.run(input, [1, 3, 16, 16, 1]), /must have shape/);
        await refuses(session.run(input.map(() => NaN)), /not finite/);
        await refuses(session.run({}), /has an input 'input'/);
        assert.deepEqual((await output(session)).data, expected);
      });
    }
  });

  test("an image beyond the memory is refused, and smaller ones are run after it", async () => {
    await withSession({}, async (session) => {
      const side = 7000;
      await refuses(session.run(new Float32Array(3 * side * side), [1, 3, side, side]), /memory|too large/);
      assert.deepEqual((await output(session)).data, expected);
    });
  });

  test("a thousand runs take no memory", async () => {
    await withSession({}, async (session) => {
      for (let i = 0; i < 10; ++i) await session.run(input);
      const before = await session.memoryBytes();
      for (let i = 0; i < 1000; ++i) await session.run(input);
      assert.equal(await session.memoryBytes(), before);
    });
  });

  test("plans of many sizes take memory that is bounded", async () => {
    await withSession({}, async (session) => {
      const runAll = async () => {
        for (let side = 8; side < 40; ++side) await session.run(new Float32Array(3 * side * side), [1, 3, side, side]);
      };
      await runAll();
      const before = await session.memoryBytes();
      for (let i = 0; i < 5; ++i) await runAll();
      assert.equal(await session.memoryBytes(), before);
    });
  });

  test("what is disposed is refused", async () => {
    for (const worker of [false, true]) {
      const session = await Session.load(file, { worker });
      const running = session.run(input);
      session.dispose();
      session.dispose();
      await (worker ? refuses(running, /disposed/) : running);
      await refuses(session.run(input), /the session is disposed/);
    }
  });
});
