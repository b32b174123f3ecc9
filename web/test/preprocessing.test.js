// Pictures become the numbers that Python makes of them, to the bit.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { SternaError } from "../dist/errors.js";
import { preprocess } from "../dist/preprocessing.js";

const PYTHON = process.env.PYTHON ?? "python3";
const PREPROCESSING = { input_shape: [3, 4, 4], resize: 4, pixel_maximum: 255, mean: [0, 0, 0], std: [1, 1, 1] };

function picture(width, height, value = 0) {
  return { width, height, data: new Uint8ClampedArray(width * height * 4).fill(value) };
}

describe("beside Python", () => {
  let folder;

  before(() => {
    folder = mkdtempSync(join(tmpdir(), "sterna-pictures-"));
    const script = fileURLToPath(new URL("make_pictures.py", import.meta.url));
    const made = spawnSync(PYTHON, [script, folder], { encoding: "utf8" });
    assert.equal(made.status, 0, `${PYTHON} must have sterna[run]: ${made.stderr ?? made.error}`);
  });

  after(() => rmSync(folder, { recursive: true, force: true }));

  test("every number is equal to the bit", () => {
    const listed = JSON.parse(readFileSync(join(folder, "pictures.json"), "utf8"));
    assert.ok(listed.length > 60);
    for (const [place, { width, height, preprocessing }] of listed.entries()) {
      const data = new Uint8Array(readFileSync(join(folder, `${place}.rgba`)));
      const found = preprocess({ data, width, height }, { preprocessing });
      const bytes = readFileSync(join(folder, `${place}.f4`));
      assert.ok(
        Buffer.from(found.buffer).equals(bytes),
        `${width}x${height} differs with ${JSON.stringify(preprocessing)}`,
      );
    }
  });
});

test("what is not a picture is refused", () => {
  const metadata = { preprocessing: PREPROCESSING };
  for (const [width, height, bytes] of [[0, 0, 0], [2, 2, 15], [2, 2, 17], [-1, -1, 4], [0.5, 2, 4], [NaN, 1, 4]]) {
    const image = { width, height, data: new Uint8ClampedArray(bytes) };
    assert.throws(() => preprocess(image, metadata), { name: "SternaError", message: /a picture must have width x height/ });
  }
});

test("a picture that is too long and thin is refused", () => {
  const metadata = { preprocessing: { ...PREPROCESSING, resize: 4096 } };
  assert.throws(() => preprocess(picture(3000, 1), metadata), {
    name: "SternaError",
    message: /^a picture of 3000x1 pixels is too long and thin: with a short side of 4096 pixels it has 50,331,648,000 pixels/,
  });
});

test("metadata that do not say how are refused", () => {
  assert.throws(() => preprocess(picture(2, 2), {}), SternaError);
});

test("a white picture is white, whatever its size", () => {
  for (const [width, height] of [[1, 1], [7, 3], [1000, 999]]) {
    const found = preprocess(picture(width, height, 255), { preprocessing: PREPROCESSING });
    assert.ok(found.every((value) => value === 1));
  }
});
