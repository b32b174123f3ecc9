// The example of README.md runs as it stands.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { Networks } from "./support.js";

const PACKAGE = fileURLToPath(new URL("..", import.meta.url));

test("the example loads a file and prints what it computes", () => {
  const text = readFileSync(join(PACKAGE, "README.md"), "utf8");
  const example = /```js\n(.*?)```/s.exec(text)[1];
  const networks = new Networks();
  const folder = mkdtempSync(join(tmpdir(), "sterna-readme-"));
  try {
    mkdirSync(join(folder, "node_modules"));
    symlinkSync(PACKAGE, join(folder, "node_modules", "sterna-web"), "junction");
    copyFileSync(networks.path("0.sterna"), join(folder, "model.sterna"));
    writeFileSync(join(folder, "example.mjs"), example);
    const { status, stdout, stderr } = spawnSync(process.execPath, ["example.mjs"], { cwd: folder, encoding: "utf8" });
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^5 \[ 3, 16, 16 \] \d+ int8$/m);
    assert.match(stdout, /^output \[ 1, 5 \] /m);
    assert.match(stdout, /^second sparse 4 /m);
  } finally {
    rmSync(folder, { recursive: true });
    networks.remove();
  }
});
