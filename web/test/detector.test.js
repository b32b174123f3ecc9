// A RetinaNet finds what PyTorch finds, and says what is wrong with files that do not tell how.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { findBoxes } from "../dist/boxes.js";
import { prepareDetectorInput } from "../dist/detector_input.js";
import { readDetectorSettings } from "../dist/detector_settings.js";
import { Detector, Session, SternaError } from "../dist/index.js";
import { Networks } from "./support.js";

const PYTHON = process.env.PYTHON ?? "python3";
const SCRIPT = fileURLToPath(new URL("make_detector.py", import.meta.url));
// Sums of float32 have another order here, and boxes follow from exponentials of them: shares of the picture's long side.
const BOX_TOLERANCE = 5e-4;
const SCORE_TOLERANCE = 2e-4;
const INPUT_TOLERANCE = 1e-5;

const SETTINGS = {
  kind: "retinanet",
  min_size: 8,
  max_size: 16,
  size_divisible: 4,
  image_mean: [0.5, 0.5, 0.5],
  image_std: [0.25, 0.25, 0.25],
  anchors: [[[-2, -2, 2, 2], [-4, -1, 4, 1]]], // prettier-ignore
  box_weights: [1, 1, 1, 1],
  box_clip: 4,
  score_thresh: 0.5,
  nms_thresh: 0.5,
  topk_candidates: 100,
  detections_per_img: 100,
};
const read = (changes = {}) => readDetectorSettings({ detector: { ...SETTINGS, ...changes } });

describe("a RetinaNet", () => {
  let folder;
  let pictures;
  let labels;

  before(() => {
    folder = mkdtempSync(join(tmpdir(), "sterna-detector-"));
    const made = spawnSync(PYTHON, [SCRIPT, folder], { encoding: "utf8" });
    assert.equal(made.status, 0, `${PYTHON} must have sterna[train]: ${made.stderr ?? made.error}`);
    ({ pictures, labels } = JSON.parse(readFileSync(file("detections.json"), "utf8")));
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  const file = (name) => join(folder, name);
  const pixels = (name) => {
    const { width, height } = pictures[name];
    return { data: new Uint8Array(readFileSync(file(`${name}.rgba`))), width, height };
  };

  test("is given what PyTorch makes of a picture", async () => {
    const detector = await Detector.load(file("retinanet.sterna"));
    const settings = readDetectorSettings(detector.session.metadata);
    for (const [name, { input_shape: shape }] of Object.entries(pictures)) {
      const { tensor } = prepareDetectorInput(pixels(name), settings);
      assert.deepEqual(tensor.shape, shape);
      const bytes = readFileSync(file(`${name}.input`));
      const expected = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
      assert.equal(tensor.data.length, expected.length);
      const largest = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - tensor.data[i])), 0);
      assert.ok(largest <= INPUT_TOLERANCE, `${name}: ${largest}`);
    }
    detector.dispose();
  });

  /** The one that is found where it was expected. */
  function isFound(found, expected, { width, height }) {
    const near = found.filter(
      ({ label, index, score, box }) =>
        label === expected.label &&
        index === expected.index &&
        Math.abs(score - expected.score) <= SCORE_TOLERANCE &&
        box.every((v, i) => Math.abs(v - expected.box[i]) <= BOX_TOLERANCE * Math.max(width, height)),
    );
    return near.length === 1;
  }

  for (const [activations, worker, reference] of [
    ["float32", false, "PyTorch"],
    ["float32", true, "PyTorch, in a worker"],
    ["int8", false, "the native engine"],
  ]) {
    test(`finds with ${activations} the boxes of ${reference}`, async () => {
      const detector = await Detector.load(file("retinanet.sterna"), { activations, worker });
      assert.deepEqual(detector.session.labels, labels);
      assert.equal(detector.session.activations, activations);
      for (const [name, one] of Object.entries(pictures)) {
        const found = await detector.detect(pixels(name), { threshold: 0 });
        assert.ok(one[activations].length > 20, name);
        assert.equal(found.length, one[activations].length, name);
        for (const expected of one[activations]) {
          assert.ok(isFound(found, expected, one), `${name}: ${JSON.stringify(expected)}`);
        }
        const scores = found.map(({ score }) => score);
        assert.deepEqual(scores, [...scores].sort((a, b) => b - a));
      }
      detector.dispose();
      await assert.rejects(detector.detect(pixels("odd")), /the session is disposed/);
    });
  }

  test("gives the best objects above a threshold", async () => {
    const detector = await Detector.load(file("retinanet.sterna"), { activations: "float32" });
    const all = await detector.detect(pixels("tall"), { threshold: 0 });
    const least = all[9].score;
    const above = await detector.detect(pixels("tall"), { threshold: least });
    assert.deepEqual(above, all.slice(0, 10));
    assert.deepEqual(await detector.detect(pixels("tall"), { threshold: least, limit: 3 }), all.slice(0, 3));
    detector.dispose();
  });

  test("is refused a picture of which nothing is left", async () => {
    const detector = await Detector.load(file("retinanet.sterna"));
    const thin = { data: new Uint8Array(4 * 1000), width: 1000, height: 1 };
    await assert.rejects(detector.detect(thin), /1000x1 pixels is too long and thin.*160 pixels/);
    const wrong = { data: new Uint8Array(3), width: 1, height: 1 };
    await assert.rejects(detector.detect(wrong), /got 1x1 and 3 bytes/);
    detector.dispose();
  });

  test("is also what Session loads from its file: the graph that sees the picture", async () => {
    const session = await Session.load(file("retinanet.sterna"));
    assert.ok(session.outputs.includes("head.classification_head.cls_logits.0"));
    const shape = [1, 3, 32, 64];
    const wanted = ["head.regression_head.bbox_reg.pool"];
    const outputs = await session.run(new Float32Array(3 * 32 * 64), shape, wanted);
    assert.deepEqual(Object.keys(outputs), wanted);
    session.dispose();
  });
});

test("a classifier is no detector", async () => {
  const networks = new Networks();
  try {
    await assert.rejects(Detector.load(networks.file()), /no graph of the name 'backbone'/);
    const session = await Session.load(networks.file());
    assert.throws(() => new Detector(session), SternaError);
  } finally {
    networks.remove();
  }
});

describe("settings", () => {
  test("of a file are read", () => {
    assert.equal(read().minSize, 8);
    assert.deepEqual(read().anchors[0][1], [-4, -1, 4, 1]);
  });

  test("that are not there are told", () => {
    assert.throws(() => readDetectorSettings({}), /does not say how its boxes are found.*sterna calibrate/);
    assert.throws(() => readDetectorSettings(JSON.parse('{"__proto__": {"detector": {}}}')), /does not say/);
  });

  for (const [key, value, message] of [
    ["kind", "yolo", /detector.kind must be retinanet, got "yolo"/],
    ["min_size", 0, /detector.min_size must be a whole number of 1 to 4096, got 0/],
    ["max_size", 1e9, /detector.max_size/],
    ["size_divisible", 2.5, /detector.size_divisible/],
    ["image_mean", [1, 2], /detector.image_mean must be a list of 3 numbers/],
    ["image_std", [1, 0, 1], /detector.image_std/],
    ["anchors", [], /detector.anchors/],
    ["anchors", [[]], /detector.anchors/],
    ["anchors", [[[0, 0, 1]]], /detector.anchors/],
    ["anchors", [[[0, 0, 1, 1e9]]], /detector.anchors/],
    ["box_weights", [1, 1, 0, 1], /detector.box_weights must be a list of 4 numbers above 0/],
    ["box_clip", 1000, /detector.box_clip/],
    ["score_thresh", "low", /detector.score_thresh must be a number, got "low"/],
    ["nms_thresh", null, /detector.nms_thresh must be a number, got nothing/],
    ["topk_candidates", 1e6, /detector.topk_candidates/],
    ["detections_per_img", 0, /detector.detections_per_img/],
  ]) {
    test(`with ${key} of ${JSON.stringify(value)} are refused`, () => {
      assert.throws(() => read({ [key]: value }), (error) => error instanceof SternaError && message.test(error.message));
    });
  }
});

describe("boxes", () => {
  const INPUT = { width: 16, height: 8 };
  // Two anchors and two classes, on a level of 2 x 4 pixels.
  const LOGITS = [1, 4, 2, 4];
  const REGRESSION = [1, 8, 2, 4];

  /** A level whose logits are -9 but at these (anchor, class, y, x). */
  function level(places, numbers = () => 0) {
    const logits = new Float32Array(32).fill(-9);
    for (const [anchor, index, y, x, value] of places) logits[(anchor * 2 + index) * 8 + y * 4 + x] = value;
    const regression = Float32Array.from({ length: 64 }, (_, at) => numbers(Math.floor(at / 8) % 4));
    return { logits: { data: logits, shape: LOGITS }, regression: { data: regression, shape: REGRESSION } };
  }
  const find = (places, changes = {}, numbers = undefined, picture = INPUT) =>
    findBoxes([level(places, numbers)], read(changes), INPUT, picture);

  test("lie where their anchors do", () => {
    assert.deepEqual(
      find([[0, 1, 1, 2, 3]]).map(({ corners, index }) => [corners, index]),
      [[[6, 2, 10, 6], 1]],
    );
    assert.deepEqual(find([[1, 0, 1, 2, 3]])[0].corners, [4, 3, 12, 5]);
  });

  test("are moved and scaled from there, in units of box_weights, and not beyond box_clip", () => {
    // By half a width to the right, a quarter of a height up; twice as wide, half as high.
    const numbers = [0.5, -0.25, Math.log(2), -Math.log(2)];
    const close = (actual, expected) => actual.forEach((v, i) => assert.ok(Math.abs(v - expected[i]) < 1e-5, `${actual}`));
    close(find([[0, 0, 1, 1, 3]], {}, (n) => numbers[n])[0].corners, [2, 2, 10, 4]);
    const weighted = find([[0, 0, 1, 1, 3]], { box_weights: [2, 2, 4, 4] }, (n) => numbers[n] * [2, 2, 4, 4][n]);
    close(weighted[0].corners, [2, 2, 10, 4]);
    const clipped = find([[0, 0, 1, 1, 3]], { box_clip: 0 }, (n) => [0, 0, 50, 0][n]);
    close(clipped[0].corners, [2, 2, 6, 6]);
  });

  test("end where the picture does, not at the edge of the input", () => {
    assert.deepEqual(find([[0, 0, 0, 0, 3]])[0].corners, [0, 0, 2, 2]);
    assert.deepEqual(find([[0, 0, 1, 3, 3]], {}, undefined, { width: 13, height: 5 })[0].corners, [10, 2, 13, 5]);
  });

  test("need a score above the threshold", () => {
    assert.deepEqual(find([[0, 0, 0, 0, 0]]), []);
    assert.equal(find([[0, 0, 0, 0, 1e-6]], { score_thresh: 0.4999 }).length, 1);
    assert.equal(find([], { score_thresh: 0 , nms_thresh: 1, topk_candidates: 1000 }).length, 32);
    assert.deepEqual(find([[0, 0, 0, 0, 100]], { score_thresh: 1 }), []);
  });

  test("are the best ones, of a level and of all", () => {
    const places = Array.from({ length: 8 }, (_, i) => [0, 0, Math.floor(i / 4), i % 4, 1 + ((i * 3) % 8)]);
    const scores = (changes) => find(places, { nms_thresh: 1, ...changes }).map(({ score }) => Math.log(score / (1 - score)));
    for (const changes of [{ topk_candidates: 3 }, { detections_per_img: 3 }]) {
      assert.deepEqual(scores(changes).map(Math.round), [8, 7, 6]);
    }
  });

  test("give way to better ones of their class that they overlap with", () => {
    const places = [[0, 0, 1, 1, 2], [1, 0, 1, 1, 3], [0, 1, 1, 1, 1]]; // prettier-ignore
    // 4 x 4 and 8 x 2 pixels share 8 of 24.
    const kept = (nms_thresh) => find(places, { nms_thresh }).map(({ score, index }) => [Math.round(Math.log(score / (1 - score))), index]);
    assert.deepEqual(kept(0.34), [[3, 0], [2, 0], [1, 1]]); // prettier-ignore
    assert.deepEqual(kept(0.33), [[3, 0], [1, 1]]); // prettier-ignore
  });

  test("of numbers that are none are refused", () => {
    assert.throws(() => find([[0, 0, 0, 0, NaN]]), /not finite/);
    assert.throws(() => find([[0, 0, 0, 0, 3]], {}, () => NaN), /not finite/);
  });

  test("of another number of levels or anchors are refused", () => {
    assert.throws(() => findBoxes([], read(), INPUT, INPUT), /detector.anchors must be of 0 levels, got 1/);
    assert.throws(() => find([], { anchors: [[[0, 0, 1, 1]]] }), /1 anchors a pixel.*\(1, 8, 2, 4\)/);
  });
});
