// The page in a real browser: Chromium, with networks and pictures that Python makes, served by `sterna serve`.
//
// CHROMIUM names the browser; without one, these tests are skipped. SCREENSHOTS names a folder for pictures of the page.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const PYTHON = process.env.PYTHON ?? "python3";
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const SWITCHES = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--use-fake-device-for-media-stream",
];
const PICTURES = ["wide.png", "tall.png", "small.png"];

const skip = existsSync(CHROMIUM) ? false : `needs Chromium at ${CHROMIUM} (CHROMIUM names another one)`;
if (skip) console.error(`The tests of the page are skipped: ${skip}`);

describe("the page", { skip }, () => {
  let folder;
  let answers;
  let server;
  let browser;
  let context;
  let complaints;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "sterna-page-"));
    mkdirSync(file("detector"));
    for (const [name, place] of [["make_files.py", "."], ["../test/make_detector.py", "detector"]]) {
      const script = fileURLToPath(new URL(name, import.meta.url));
      const made = spawnSync(PYTHON, [script, file(place)], { encoding: "utf8" });
      assert.equal(made.status, 0, `${PYTHON} must have sterna[train]: ${made.stderr ?? made.error}`);
    }
    answers = JSON.parse(readFileSync(file("answers.json"), "utf8"));
    server = await serve(file("network.sterna"));
    browser = await chromium.launch({ executablePath: CHROMIUM, args: SWITCHES });
  });

  after(async () => {
    await browser?.close();
    server?.process.kill("SIGINT");
    rmSync(folder, { recursive: true, force: true });
  });

  // Nothing may be written to the console, and no other host asked, in any of the tests.
  afterEach(async () => {
    await context?.close();
    context = undefined;
    assert.deepEqual(complaints, []);
  });

  const file = (name) => join(folder, name);

  /** Open the page; complaints that match `expected` are meant. */
  async function open({ address = server.address, permissions = [], expected = /^$/, ...options } = {}) {
    complaints = [];
    context = await browser.newContext({ viewport: { width: 1280, height: 900 }, permissions, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(60_000);
    const complain = (text) => expected.test(text) || complaints.push(text);
    page.on("console", (message) => complain(message.text()));
    page.on("pageerror", (error) => complain(String(error)));
    page.on("dialog", (dialog) => complain(`a dialog: ${dialog.message()}`));
    page.on("request", (request) => {
      const { protocol, host } = new URL(request.url());
      if (protocol !== "blob:" && host !== new URL(address).host) complain(`a request to ${request.url()}`);
    });
    await page.goto(address);
    return page;
  }

  const ready = (page, name = "network.sterna") => page.getByText(name, { exact: true }).first().waitFor();
  const give = (page, name, input = "picture-input") => page.locator(`#${input}`).setInputFiles(file(name));
  const drop = async (page, ...names) => {
    const contents = names.map((name) => [basename(name), readFileSync(file(name)).toString("base64")]);
    const dropped = await page.evaluateHandle((contents) => {
      const transfer = new DataTransfer();
      for (const [name, base64] of contents) {
        const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
        transfer.items.add(new File([bytes], name));
      }
      return transfer;
    }, contents);
    await page.dispatchEvent("main", "drop", { dataTransfer: dropped });
  };
  /** Where they are asked for. */
  const photograph = async (page, name) => {
    if (!process.env.SCREENSHOTS) return;
    // From where npm was called, which itself moves to web/.
    const path = resolve(process.env.INIT_CWD ?? ".", process.env.SCREENSHOTS, `${name}.png`);
    await page.screenshot({ path, fullPage: true });
  };
  const errorText = async (page) => {
    await page.locator("#error:not([hidden])").waitFor();
    return page.locator("#error").innerText();
  };

  /** What a card shows: names and percentages. */
  const shown = (page, id) =>
    page.locator(`#${id} .classes li`).evaluateAll((rows) =>
      rows.map((row) => [row.querySelector("bdi").textContent, row.querySelector(".percent").textContent]),
    );

  const expectedRows = (id, picture) =>
    answers[id][picture].map(([label, probability]) => [label, `${(100 * probability).toFixed(1)} %`]);

  /** Wait until both cards show what the native engine says of a picture. */
  async function isAnswered(page, picture) {
    for (const id of ["int8", "float32"]) {
      const wanted = JSON.stringify(expectedRows(id, picture));
      try {
        await page.waitForFunction(
          ([id, wanted]) =>
            !document.getElementById(id).hidden &&
            JSON.stringify(
              [...document.querySelectorAll(`#${id} .classes li`)].map((row) => [
                row.querySelector("bdi").textContent,
                row.querySelector(".percent").textContent,
              ]),
            ) === wanted,
          [id, wanted],
        );
      } catch {
        assert.deepEqual(await shown(page, id), expectedRows(id, picture), `${id}, ${picture}`);
      }
    }
  }

  test("loads the network of its address, and tells what it is", async () => {
    const page = await open();
    await ready(page);
    assert.match(await page.locator("#file-size").innerText(), /^1\.\d kB$/);
    assert.match(await page.locator("#float-size").innerText(), /^\d\.\d kB, \d\.\d\d times as much$/);
    assert.equal(await page.locator("#accuracy").innerText(), "91.1 % of 10,000 images");
    await page.locator("#loading").waitFor({ state: "hidden" });
    await page.getByText("Now it needs a picture.").waitFor();
  });

  test("answers as the native engine does, in the order of pictures", async () => {
    const page = await open();
    await ready(page);
    for (const picture of [...PICTURES, "wide.png"]) {
      await give(page, picture);
      await isAnswered(page, picture);
    }
    assert.match(await page.locator("#int8 .milliseconds").innerText(), /^\d+(\.\d+)? ms$/);
    assert.match(await page.locator("#float32 .rate").innerText(), /^[\d,]+ frames a second$/);
    assert.match(await page.locator("#comparison").innerText(), /^Both say the same\. With float32 activations it takes/);
    await page.waitForFunction(() => / in \d/.test(document.getElementById("status").textContent));
  });

  test("answers a picture that came before the network", async () => {
    const page = await open({ address: new URL("/index.html", server.address).href });
    await give(page, "tall.png");
    await page.getByText("Now it needs a network.").waitFor();
    await give(page, "network.sterna", "model-input");
    await isAnswered(page, "tall.png");
  });

  test("shows names as text, whatever they hold", async () => {
    const page = await open();
    await ready(page);
    await give(page, "wide.png");
    await isAnswered(page, "wide.png");
    assert.equal(await page.locator(".classes img").count(), 0);
    for (const id of ["int8", "float32"]) {
      const wide = await page.locator(`#${id} .classes`).evaluate((list) => list.scrollWidth > list.clientWidth);
      assert.equal(wide, false, "a long name must not push its list apart");
    }
  });

  test("takes a network and a picture that are dropped", async () => {
    const page = await open({ address: new URL("/index.html", server.address).href });
    await drop(page, "network.sterna", "small.png");
    await isAnswered(page, "small.png");
  });

  test("shows one set of answers for a network that is not calibrated", async () => {
    const page = await open();
    await ready(page);
    await give(page, "exact.sterna", "model-input");
    await ready(page, "exact.sterna");
    await give(page, "wide.png");
    await page.getByText("has no ranges for 8-bit activations").waitFor();
    assert.deepEqual(await shown(page, "float32"), expectedRows("float32", "wide.png"));
    assert.equal(await page.locator("#int8").isVisible(), false);
  });

  describe("with a RetinaNet", () => {
    let detections;
    before(() => {
      detections = JSON.parse(readFileSync(file("detector/detections.json"), "utf8")).pictures;
    });

    // As the page gives them: those that it is sure of, and no more than fit.
    const sure = (name, activations) => detections[name][activations].filter(({ score }) => score >= 0.5).slice(0, 20);
    const rows = (name, activations) =>
      sure(name, activations).map(({ label, score }) => [label, `${(100 * score).toFixed(1)} %`]);

    /** Boxes as they are drawn: left, top, right, bottom in pixels of the picture, the best one first. */
    const drawn = (page) =>
      page.locator("#boxes rect").evaluateAll((rects) =>
        rects
          .map((rect) => ["x", "y", "width", "height"].map((key) => Number(rect.getAttribute(key))))
          .map(([x, y, width, height]) => [x, y, x + width, y + height])
          .reverse(),
      );

    async function isFound(page, name, activations = ["int8", "float32"]) {
      for (const id of activations) {
        const expected = rows(name, id);
        await page.waitForFunction(
          ([id, labels]) =>
            !document.getElementById(id).hidden &&
            JSON.stringify([...document.querySelectorAll(`#${id} .classes bdi`)].map((name) => name.textContent)) === labels,
          [id, JSON.stringify(expected.map(([label]) => label))],
        );
        // The last digit of a percentage may be rounded otherwise.
        (await shown(page, id)).forEach(([, share], place) => {
          assert.ok(Math.abs(parseFloat(share) - parseFloat(expected[place][1])) < 0.15, `${share} ${expected[place][1]}`);
        });
      }
      const expected = sure(name, activations[0]).map(({ box }) => box);
      const boxes = await drawn(page);
      assert.equal(boxes.length, expected.length);
      const most = 1e-3 * Math.max(detections[name].width, detections[name].height);
      boxes.flat().forEach((value, i) => assert.ok(Math.abs(value - expected.flat()[i]) < most));
    }

    async function openDetector() {
      const page = await open();
      await ready(page);
      await give(page, "detector/retinanet.sterna", "model-input");
      await ready(page, "retinanet.sterna");
      return page;
    }

    test("draws boxes around what is in a picture that is dropped, and lists them", async () => {
      const page = await openDetector();
      await drop(page, "detector/wide.png");
      await isFound(page, "wide");
      assert.match(await page.locator("#comparison").innerText(), /^Both find 20 objects\. With float32 activations it takes/);
      const first = page.locator("#int8 .classes li").first();
      assert.match(await first.locator(".place").textContent(), /^from \d+, \d+ to \d+, \d+$/);
      assert.equal(await page.locator("#boxes b").count(), 0);
      assert.match(await page.locator("#boxes").textContent(), /<b>cat<\/b>/);
    });

    test("puts boxes where the picture is, whatever its shape", async () => {
      const page = await openDetector();
      for (const name of ["tall", "odd"]) {
        await give(page, `detector/${name}.png`);
        await isFound(page, name);
        // What is drawn from corner to corner of the picture lies on it.
        const [canvas, ratio] = await page.evaluate(() => {
          const { left, top, width, height } = document.getElementById("preview").getBoundingClientRect();
          return [[left, top, width, height], document.getElementById("preview").width];
        });
        const matrix = await page.evaluate(() => {
          const { a, d, e, f } = document.getElementById("boxes").getScreenCTM();
          return [a, d, e, f];
        });
        const { width, height } = detections[name];
        const scale = Math.min(canvas[2] / width, canvas[3] / height);
        assert.equal(ratio, width);
        const expected = [
          scale, scale, canvas[0] + (canvas[2] - scale * width) / 2, canvas[1] + (canvas[3] - scale * height) / 2,
        ]; // prettier-ignore
        matrix.forEach((value, i) => assert.ok(Math.abs(value - expected[i]) < 0.51, `${matrix} ${expected}`));
      }
    });

    test("takes its boxes away with the network, and with the picture", async () => {
      const page = await openDetector();
      await give(page, "detector/wide.png");
      await isFound(page, "wide");
      await give(page, "network.sterna", "model-input");
      await ready(page);
      await page.locator("#boxes").waitFor({ state: "hidden" });
      assert.deepEqual(await drawn(page), []);
      assert.equal(await page.locator("#int8 .classes li").count(), 5);
    });

    test("finds things in what the camera sees", async () => {
      const page = await open({ permissions: ["camera"] });
      await ready(page);
      await give(page, "detector/retinanet.sterna", "model-input");
      await ready(page, "retinanet.sterna");
      await page.locator("#camera").click();
      await page.locator("#int8 .milliseconds").filter({ hasText: "ms" }).waitFor();
      const viewBox = await page.locator("#boxes").getAttribute("viewBox");
      const size = await page.locator("#video").evaluate((video) => `0 0 ${video.videoWidth} ${video.videoHeight}`);
      assert.equal(viewBox, size);
      await page.locator("#camera").click();
      assert.deepEqual(await drawn(page), []);
    });

    test("can be looked at on a desk and on a telephone", async () => {
      const page = await openDetector();
      await give(page, "detector/wide.png");
      await isFound(page, "wide");
      for (const [name, width, height] of [["detector-desk", 1280, 1100], ["detector-telephone", 390, 844]]) {
        await page.setViewportSize({ width, height });
        assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= width);
        await photograph(page, name);
      }
    });
  });

  test("tells what is wrong with a file, and goes on with the one before", async () => {
    const page = await open();
    await ready(page);
    for (const [name, expected] of [
      ["damaged.sterna", /checksum/],
      ["broken.png", /not.*sterna|magic|truncated/i],
      ["detector.sterna", /does not say how its boxes are found/],
      ["masks.sterna", /classifiers and RetinaNets.*instance-segmentation.*sterna run/],
      ["graphless.sterna", /no graph/],
    ]) {
      await give(page, name, "model-input");
      assert.match(await errorText(page), expected);
      assert.equal(await page.locator("#loading").isVisible(), false);
      await give(page, "wide.png");
      await isAnswered(page, "wide.png");
      assert.equal(await page.locator("#error").isVisible(), false);
    }
    assert.equal(await page.locator("#network-name").innerText(), "network.sterna");
  });

  test("tells that a picture cannot be read", async () => {
    const page = await open();
    await ready(page);
    await give(page, "broken.png");
    assert.equal(await errorText(page), "broken.png is not a picture that this browser can read");
    await give(page, "wide.png");
    await isAnswered(page, "wide.png");
  });

  test("tells that a network is not there, or may not come from elsewhere", async () => {
    const at = (model) => new URL(`/?model=${encodeURIComponent(model)}`, server.address).href;
    let page = await open({ address: at("models/none.sterna"), expected: /404/ });
    assert.match(await errorText(page), /none\.sterna.*404/);
    await give(page, "network.sterna", "model-input");
    await ready(page);
    await context.close();
    page = await open({ address: at("https://other.example/a.sterna") });
    assert.match(await errorText(page), /must be one of http:\/\/127\.0\.0\.1.*got https:\/\/other\.example/);
    await context.close();
    page = await open({ address: at("javascript:alert(1)") });
    assert.match(await errorText(page), /got javascript:alert/);
  });

  test("goes on when the net is gone", async () => {
    const page = await open({ expected: /ERR_/ });
    await ready(page);
    await give(page, "wide.png");
    await isAnswered(page, "wide.png");
    await context.setOffline(true);
    await give(page, "tall.png");
    await isAnswered(page, "tall.png");
    await context.setOffline(false);
    await context.route("**/models/*", (route) => route.abort("internetdisconnected"));
    await page.reload();
    assert.match(await errorText(page), /^network\.sterna cannot be fetched/);
    await give(page, "network.sterna", "model-input");
    await give(page, "wide.png");
    await isAnswered(page, "wide.png");
  });

  test("tells that the camera was denied, and goes on", async () => {
    const page = await open();
    await ready(page);
    await page.evaluate(() => {
      navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("denied", "NotAllowedError"));
    });
    await page.getByRole("button", { name: "Use the camera" }).click();
    assert.match(await errorText(page), /^the camera was denied: allow it/);
    assert.equal(await page.locator("#camera").getAttribute("aria-pressed"), "false");
    await give(page, "wide.png");
    await isAnswered(page, "wide.png");
  });

  test("asks the browser for the camera, which says no", async () => {
    const page = await open();
    await ready(page);
    const session = await context.newCDPSession(page);
    await session.send("Browser.setPermission", { permission: { name: "camera" }, setting: "denied" });
    await page.getByRole("button", { name: "Use the camera" }).click();
    assert.match(await errorText(page), /^the camera was denied: allow it/);
  });

  test("watches the camera, and lets it go", async () => {
    const page = await open({ permissions: ["camera"] });
    await ready(page);
    await page.getByRole("button", { name: "Use the camera" }).click();
    for (const id of ["int8", "float32"]) await page.locator(`#${id} .classes li`).nth(4).waitFor();
    assert.equal(await page.locator("#video").isVisible(), true);
    const track = await page.evaluateHandle(() => document.getElementById("video").srcObject.getTracks()[0]);
    await page.getByRole("button", { name: "Stop the camera" }).click();
    assert.equal(await track.evaluate(({ readyState }) => readyState), "ended");
    assert.equal(await page.locator("#placeholder").isVisible(), true);
    // A picture takes the place of the camera, too.
    await page.getByRole("button", { name: "Use the camera" }).click();
    await page.locator("#video").waitFor();
    await give(page, "wide.png");
    await isAnswered(page, "wide.png");
    assert.equal(await page.locator("#camera").getAttribute("aria-pressed"), "false");
  });

  test("changes the network while it is at work", async () => {
    const page = await open({ permissions: ["camera"] });
    await ready(page);
    await page.getByRole("button", { name: "Use the camera" }).click();
    await page.locator("#int8 .classes li").nth(4).waitFor();
    await give(page, "exact.sterna", "model-input");
    await ready(page, "exact.sterna");
    await page.locator("#int8").waitFor({ state: "hidden" });
    await page.locator("#float32 .classes li").nth(4).waitFor();
    assert.equal(await page.locator("#error").isVisible(), false);
    await page.getByRole("button", { name: "Stop the camera" }).click();
    for (let time = 0; time < 5; ++time) {
      await give(page, "wide.png");
      for (const name of ["exact.sterna", "network.sterna"]) await give(page, name, "model-input");
    }
    await isAnswered(page, "wide.png");
    assert.equal(await page.locator("#error").isVisible(), false);
  });

  test("keeps its memory through a thousand runs", async () => {
    const page = await open();
    await ready(page);
    const { bytes, sizes } = await page.evaluate(async (address) => {
      const { Session, preprocess } = await import(new URL("/dist/index.js", address).href);
      const model = new URLSearchParams(location.search).get("model");
      const session = await Session.load(new URL(model, address));
      const input = new Float32Array(3 * 48 * 48).fill(0.5);
      const sizes = [];
      for (let run = 0; run < 1000; ++run) {
        await session.run(input);
        if (run % 100 === 0) sizes.push(await session.memoryBytes());
      }
      sizes.push(await session.memoryBytes());
      session.dispose();
      return { bytes: session.bytes, sizes };
    }, server.address);
    assert.ok(bytes > 0);
    assert.deepEqual(new Set(sizes).size, 1, `memory grew: ${sizes}`);
  });

  test("comes with a package that takes whatever browsers show", async () => {
    const page = await open();
    await ready(page);
    const picture = readFileSync(file("tall.png")).toString("base64");
    const found = await page.evaluate(async (picture) => {
      const { Session } = await import(new URL("/dist/index.js", location.href).href);
      const model = new URL(new URLSearchParams(location.search).get("model"), location.href);
      const session = await Session.load(model);
      const bytes = Uint8Array.from(atob(picture), (character) => character.charCodeAt(0));
      const blob = new Blob([bytes], { type: "image/png" });
      const image = new Image();
      image.src = URL.createObjectURL(blob);
      await image.decode();
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [image.width, image.height];
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      const shown = [image, canvas, await createImageBitmap(blob), context.getImageData(0, 0, image.width, image.height)];
      const answers = [];
      for (const one of shown) answers.push(await session.classify(one));
      session.dispose();
      return answers;
    }, picture);
    for (const classes of found) {
      assert.deepEqual(classes.map(({ label, probability }) => [label, probability]), answers.int8["tall.png"]);
    }
  });

  test("is used with the keyboard alone", async () => {
    const page = await open();
    await ready(page);
    const names = [];
    for (let step = 0; step < 3; ++step) {
      await page.keyboard.press("Tab");
      names.push(
        await page.evaluate(() => {
          const focused = document.activeElement;
          const seen = focused.closest(".button");
          const { outlineStyle } = getComputedStyle(seen);
          return [(focused.labels?.[0] ?? focused).textContent.trim(), outlineStyle];
        }),
      );
    }
    assert.deepEqual(names, [
      ["Choose a .sterna file", "solid"],
      ["Choose a picture", "solid"],
      ["Use the camera", "solid"],
    ]);
    const choosing = page.waitForEvent("filechooser");
    await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Enter");
    await (await choosing).setFiles(file("wide.png"));
    await isAnswered(page, "wide.png");
  });

  test("may not be framed, and asks no other host", async () => {
    const page = await open({ expected: /Content Security Policy|Refused to|fetch/i });
    const other = createServer((_, response) => response.end());
    await new Promise((resolve) => other.listen(0, "127.0.0.1", resolve));
    const address = `http://127.0.0.1:${other.address().port}/`;
    const outcome = await page.evaluate((address) => fetch(address).then(() => "fetched", () => "refused"), address);
    other.close();
    assert.equal(outcome, "refused");
    const response = await page.request.get(server.address);
    assert.equal(response.headers()["content-security-policy"], "frame-ancestors 'none'");
    assert.equal(await page.evaluate(() => crossOriginIsolated), true);
  });

  for (const colorScheme of ["light", "dark"]) {
    for (const width of [390, 1280]) {
      test(`fits into ${width} pixels, ${colorScheme}`, async () => {
        const page = await open({ colorScheme, viewport: { width, height: 900 }, reducedMotion: "reduce" });
        await ready(page);
        await give(page, "wide.png");
        await isAnswered(page, "wide.png");
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(overflow <= 0, `${overflow} pixels too wide`);
        const bar = page.locator(".classes .bar").first();
        assert.match(await bar.evaluate((element) => getComputedStyle(element).transitionProperty), /none|all/);
        assert.ok((await contrast(page)) >= 4.5);
        await photograph(page, `${width}-${colorScheme}`);
      });
    }
  }
});

/** The least contrast of texts against what is behind them, as WCAG 2 defines it. */
function contrast(page) {
  return page.evaluate(() => {
    const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
    const luminance = ([red, green, blue]) => {
      const [r, g, b] = [red, green, blue].map((value) => {
        const part = value / 255;
        return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const background = (element) => {
      for (let one = element; one !== null; one = one.parentElement) {
        const colour = channels(getComputedStyle(one).backgroundColor);
        if (colour.length === 3 || colour[3] === 1) return colour;
      }
      return [255, 255, 255];
    };
    const texts = [...document.querySelectorAll("body *")].filter(
      (element) => element.checkVisibility() && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()),
    );
    return Math.min(
      ...texts.map((element) => {
        const pair = [luminance(channels(getComputedStyle(element).color)), luminance(background(element))];
        return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
      }),
    );
  });
}

/** Start `sterna serve`, and wait for its address. */
async function serve(model) {
  const child = spawn(PYTHON, ["-m", "sterna", "serve", model, "--port", "0", "--no-open", "--json"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  for await (const piece of child.stdout) {
    text += piece;
    try {
      return { process: child, address: JSON.parse(text).address };
    } catch {
      // not all of it yet
    }
  }
  throw new Error("sterna serve has ended");
}
