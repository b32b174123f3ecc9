// Logits become names and probabilities as in Python.

import assert from "node:assert/strict";
import { test } from "node:test";

import { topClasses } from "../dist/classes.js";

test("the most probable classes come first, equal ones in their order", () => {
  const logits = Float32Array.from([1, 3, 3, -1e30, 2]);
  const classes = topClasses(logits, ["a", "b", "c"], 4);
  assert.deepEqual(classes.map(({ label, index }) => [label, index]), [["b", 1], ["c", 2], ["4", 4], ["a", 0]]);
  const total = 2 * Math.exp(3) + Math.exp(2) + Math.exp(1);
  assert.ok(Math.abs(classes[0].probability - Math.exp(3) / total) < 1e-15);
});

test("there may be fewer classes than are wanted, and large logits", () => {
  const [first, second, ...rest] = topClasses(Float32Array.from([1000, 1001]), [], 5);
  assert.deepEqual(rest, []);
  assert.ok(Math.abs(first.probability + second.probability - 1) < 1e-15);
  assert.equal(first.label, "1");
});

test("numbers that are not finite are refused", () => {
  for (const bad of [NaN, Infinity, -Infinity]) {
    assert.throws(() => topClasses(Float32Array.from([0, bad]), [], 5), { name: "SternaError", message: /not finite/ });
  }
});
