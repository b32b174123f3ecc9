// Metadata are a stranger's: what does not fit is one line, and nothing is taken for what it is not.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import {
  describe as describeNetwork,
  labelName,
  parseMetadata,
  readLabels,
  readPreprocessing,
  readTask,
} from "../dist/metadata.js";

const PREPROCESSING = {
  input_shape: [3, 224, 200],
  resize: 256,
  pixel_maximum: 255.0,
  mean: [0.485, 0.456, 0.406],
  std: [0.229, 0.224, 0.225],
};

const bytes = (text) => new TextEncoder().encode(text);
const refused = (work, message) => assert.throws(work, { name: "SternaError", message });

describe("the bytes", () => {
  test("are a JSON object", () => {
    assert.deepEqual(parseMetadata(bytes('{"labels": ["Möwe", "海鸥"], "x": [1e308, -0.5, null, true]}')), {
      labels: ["Möwe", "海鸥"],
      x: [1e308, -0.5, null, true],
    });
  });

  for (const [name, text] of Object.entries({
    nothing: "",
    "no JSON": "{'a': 1}",
    NaN: '{"x": NaN}',
    "a number that becomes infinite": '{"x": [{"y": -1e999}]}',
    "a huge integer": `{"x": ${"9".repeat(10_000)}}`,
    "a tower of brackets": "[".repeat(100_000),
    "a tower of objects": '{"a":'.repeat(600) + "1" + "}".repeat(600),
    "a byte order mark": '\ufeff{"x": 1}',
  })) {
    test(`must not be ${name}`, () => refused(() => parseMetadata(bytes(text)), /^metadata: not valid JSON: /));
  }

  for (const text of ["[]", "null", "1", '"text"']) {
    test(`must not be ${text}`, () => refused(() => parseMetadata(bytes(text)), "metadata: must be a JSON object"));
  }

  test("must be UTF-8", () => {
    refused(() => parseMetadata(new Uint8Array([0x22, 0xff, 0x22])), /^metadata: not valid JSON: /);
  });

  test("may be nested, and names of JavaScript are names like others", () => {
    const tower = '{"a":'.repeat(100) + "1" + "}".repeat(100);
    assert.equal(Object.keys(parseMetadata(bytes(tower))).length, 1);
    const strange = parseMetadata(bytes('{"__proto__": {"task": "classification", "labels": ["a"]}}'));
    refused(() => readTask(strange), /got nothing$/);
    assert.deepEqual(readLabels(strange), []);
  });
});

describe("the task", () => {
  test("is one of three", () => {
    assert.equal(readTask({ task: "instance-segmentation" }), "instance-segmentation");
    const allowed = "classification or detection or instance-segmentation";
    refused(() => readTask({}), `metadata: task must be ${allowed}, got nothing`);
    refused(() => readTask({ task: "pose" }), `metadata: task must be ${allowed}, got "pose"`);
    refused(() => readTask({ task: ["detection"] }), `metadata: task must be ${allowed}, got ["detection"]`);
  });
});

describe("the labels", () => {
  test("are texts, or there are none", () => {
    assert.deepEqual(readLabels({ labels: ["a", "<b>"] }), ["a", "<b>"]);
    assert.deepEqual(readLabels({}), []);
    for (const labels of ["abc", { 0: "a" }, ["a", 1], ["a", null], [["a"]]]) {
      refused(() => readLabels({ labels }), /^metadata: labels must be a list of texts, got /);
    }
  });

  test("that are missing are numbers", () => {
    assert.equal(labelName(["a"], 0), "a");
    assert.equal(labelName(["a"], 1), "1");
  });
});

describe("the preprocessing", () => {
  test("is read", () => {
    assert.deepEqual(readPreprocessing({ preprocessing: PREPROCESSING }), {
      channels: 3,
      height: 224,
      width: 200,
      resize: 256,
      pixelMaximum: 255,
      mean: [0.485, 0.456, 0.406],
      std: [0.229, 0.224, 0.225],
    });
    assert.equal(readPreprocessing({ preprocessing: { ...PREPROCESSING, resize: null } }).resize, null);
  });

  test("must be there", () => {
    for (const preprocessing of [null, 5, [], "text"]) {
      refused(() => readPreprocessing({ preprocessing }), /^metadata: preprocessing must be an object, got /);
    }
    refused(() => readPreprocessing({}), "metadata: preprocessing must be an object, got nothing");
  });

  const wrong = {
    input_shape: [null, 5, [3, 224], [2, 8, 8], [3, 0, 8], [3, 8, 4097], [3, 8.5, 8], [true, 8, 8], ["3", 8, 8], [3, 8, 8, 8]],
    resize: [0, -1, 1.5, "256", true, 4097, [256]],
    pixel_maximum: [null, 0, 1, 256, 16.5, "255", true],
    mean: [null, [], [1, 2], [1, 2, "3"], [1, 2, null], [1, 2, 1e7], 5, { 0: 1, 1: 1, 2: 1, length: 3 }],
    std: [null, [1, 2, 0], [1, 2, -1], [1, 2, true], [1, 2]],
  };
  for (const [key, values] of Object.entries(wrong)) {
    test(`names ${key} where it does not fit`, () => {
      for (const value of values) {
        refused(
          () => readPreprocessing({ preprocessing: { ...PREPROCESSING, [key]: value } }),
          new RegExp(`^metadata: preprocessing\\.${key} must be `),
        );
      }
    });
  }

  test("is shown in one short line", () => {
    const long = { preprocessing: { ...PREPROCESSING, mean: Array(1000).fill("a\nb") } };
    assert.throws(() => readPreprocessing(long), (error) => error.message.length < 200 && !error.message.includes("\n"));
  });
});

describe("the description", () => {
  test("is what the file says", () => {
    const metadata = { model: { name: "torchvision:resnet18" }, metrics: { top1: 86.29, images: 372 } };
    assert.deepEqual(describeNetwork(metadata), { model: "torchvision:resnet18", top1: 86.29, images: 372 });
  });

  test("leaves out what does not fit", () => {
    for (const metadata of [
      {},
      { model: null, metrics: null },
      { model: "text", metrics: [] },
      { model: { name: 5 }, metrics: { top1: "90", images: 0 } },
      { metrics: { top1: 101, images: 1.5 } },
      { metrics: { top1: -1, images: "372" } },
    ]) {
      assert.deepEqual(describeNetwork(metadata), {});
    }
  });
});
