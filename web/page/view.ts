/** What the page shows. Names and messages hold what strangers wrote: they are put in as text, never as markup. */

import type { Detection, Progress } from "../dist/index.js";
import type { Answer, Facts } from "./network.js";

const GOLDEN_ANGLE = 137.508;
const LETTERS_IN_A_PICTURE = 26;
const LONGEST_LABEL = 20;
const LINE_HEIGHT = 1.4;

/** The element of this id. */
export function element<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found as T;
}

/** Say something that has gone wrong, until something goes well. */
export function showError(message: string): void {
  const box = element("error");
  box.textContent = message;
  box.hidden = false;
}

export function clearError(): void {
  element("error").hidden = true;
  element("error").textContent = "";
}

/** Tell those who listen to the page instead of looking at it. */
export function announce(message: string): void {
  element("status").textContent = message;
}

/** Show how far a network has come; nothing when it is there. */
export function showLoading(name: string, progress?: Progress): void {
  const bar = element<HTMLProgressElement>("loading-bar");
  element("loading").hidden = false;
  if (progress?.total === undefined) bar.removeAttribute("value");
  else bar.value = (progress.loaded / progress.total + progress.decoded) / 2;
  const total = progress?.total === undefined ? "" : ` of ${inBytes(progress.total)}`;
  element("loading-text").textContent =
    progress === undefined
      ? `Loading ${name}`
      : `Loading ${name}: ${inBytes(progress.loaded)}${total}, ${percent(progress.decoded, 0)} decoded`;
}

export function hideLoading(): void {
  element("loading").hidden = true;
}

export function showFacts(facts: Facts): void {
  setName(element("network-name"), facts.name);
  element("facts").hidden = false;
  element("file-size").textContent = inBytes(facts.fileBytes);
  element("float-size").textContent =
    `${inBytes(facts.floatBytes)}, ${number(facts.floatBytes / facts.fileBytes)} times as much`;
  const images = facts.images === undefined ? "" : ` of ${facts.images.toLocaleString("en")} images`;
  setFact("accuracy", facts.top1 === undefined ? undefined : `${facts.top1.toFixed(1)} %${images}`);
}

/** Show answers about a picture of this size, those of other activations being hidden; boxes are those of the first. */
export function showAnswers(answers: readonly Answer[], picture: { width: number; height: number }): void {
  showBoxes(answers[0]?.objects ?? [], picture);
  for (const id of ["int8", "float32"]) {
    const answer = answers.find(({ activations }) => activations === id);
    element(id).hidden = answer === undefined;
    if (answer !== undefined) showAnswer(element(id), answer);
  }
}

/** Say how the answers compare. */
export function compare(answers: readonly Answer[], isCalibrated: boolean): string {
  const [first, second] = answers;
  if (first === undefined) return "";
  if (second === undefined) {
    return isCalibrated ? "" : "This file has no ranges for 8-bit activations: sterna calibrate adds them.";
  }
  const ratio = second.milliseconds / first.milliseconds;
  const times = ratio >= 1 ? `takes ${number(ratio)} times as long` : `takes ${percent(ratio, 0)} of the time`;
  return `${agreement(first, second)} With float32 activations it ${times}.`;
}

function agreement(first: Answer, second: Answer): string {
  if (first.objects !== undefined && second.objects !== undefined) {
    const [one, other] = [first.objects.length, second.objects.length];
    return one === other ? `Both find ${objectCount(one)}.` : `They find ${objectCount(one)} and ${other}.`;
  }
  const agree = first.classes[0]?.index === second.classes[0]?.index;
  return agree ? "Both say the same." : "They say different things.";
}

export function hint(text: string): void {
  element("comparison").textContent = text;
  element("comparison").hidden = text === "";
}

/** The names in an answer: of the best class, or of all objects. */
export function named({ classes, objects }: Answer): string {
  return objects === undefined ? (classes[0]?.label ?? "") : objects.map(({ label }) => label).join(", ");
}

/** One line for those who listen. */
export function spoken(answer: Answer): string {
  if (answer.objects !== undefined) {
    const names = named(answer);
    const found = names === "" ? "no object" : `${objectCount(answer.objects.length)}: ${names}`;
    return `${found}, in ${number(answer.milliseconds)} milliseconds`;
  }
  const [best] = answer.classes;
  if (best === undefined) return "";
  return `${best.label}, ${percent(best.probability, 0)}, in ${number(answer.milliseconds)} milliseconds`;
}

function showAnswer(card: HTMLElement, { classes, objects, milliseconds }: Answer): void {
  part(card, ".milliseconds").textContent = `${number(milliseconds)} ms`;
  part(card, ".rate").textContent = `${Math.round(1000 / milliseconds).toLocaleString("en")} frames a second`;
  part(card, ".nothing").hidden = objects?.length !== 0;
  const rows =
    objects?.map(({ label, score, index, box }) => ({ label, share: score, colour: colourOf(index), place: inWords(box) })) ??
    classes.map(({ label, probability }) => ({ label, share: probability, colour: undefined, place: "" }));
  const list = part(card, ".classes");
  while (list.children.length > rows.length) list.lastElementChild!.remove();
  while (list.children.length < rows.length) list.append(makeRow());
  for (const [at, { label, share, colour, place }] of rows.entries()) {
    const row = list.children[at] as HTMLElement;
    setName(row, label);
    part(row, ".percent").textContent = percent(share, 1);
    part(row, ".bar").style.width = `${100 * share}%`;
    part(row, ".place").textContent = place;
    row.style.borderInlineStart = colour === undefined ? "" : `0.4rem solid ${colour}`;
  }
}

/** Draw boxes over the picture; the list says the same to those who do not see them. */
function showBoxes(found: readonly Detection[], { width, height }: { width: number; height: number }): void {
  const drawing = document.getElementById("boxes")!;
  drawing.toggleAttribute("hidden", found.length === 0);
  drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const letters = Math.max(width, height) / LETTERS_IN_A_PICTURE;
  drawing.setAttribute("font-size", `${letters}`);
  // The best one is drawn last, over the others.
  drawing.replaceChildren(...found.map((object) => makeBox(object, letters, width)).reverse());
}

export function clearBoxes(): void {
  showBoxes([], { width: 1, height: 1 });
}

function makeBox({ label, score, index, box }: Detection, letters: number, pictureWidth: number): SVGElement {
  const [left, top, right, bottom] = box;
  const colour = colourOf(index);
  const frame = svg("rect", { x: left, y: top, width: right - left, height: bottom - top, stroke: colour });
  const shown = [...label];
  const short = shown.length <= LONGEST_LABEL ? label : `${shown.slice(0, LONGEST_LABEL).join("")}\u2026`;
  // Above the box, unless it begins at the edge of the picture.
  const y = top >= LINE_HEIGHT * letters ? top - 0.3 * letters : top + letters;
  const isRight = left > pictureWidth / 2;
  const x = isRight ? right - 0.2 * letters : left + 0.2 * letters;
  const text = svg("text", { x, y, "text-anchor": isRight ? "end" : "start" });
  // Its own direction, whatever it is written in.
  text.textContent = `\u2068${short}\u2069 ${percent(score, 0)}`;
  const group = svg("g", {});
  group.append(frame, text);
  return group;
}

function svg(name: string, attributes: Readonly<Record<string, string | number>>): SVGElement {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, `${value}`);
  return made;
}

/** Of a class: neighbours are far from each other on the wheel of colours. */
function colourOf(index: number): string {
  return `hsl(${(index * GOLDEN_ANGLE) % 360} 85% 55%)`;
}

function inWords([left, top, right, bottom]: Detection["box"]): string {
  const [from, to] = [[left, top], [right, bottom]].map((corner) => corner.map(Math.round).join(", "));
  return `from ${from} to ${to}`;
}

function objectCount(count: number): string {
  return count === 1 ? "1 object" : `${count} objects`;
}

function makeRow(): HTMLLIElement {
  const row = document.createElement("li");
  const bar = document.createElement("span");
  bar.className = "bar";
  const share = document.createElement("span");
  share.className = "percent";
  const place = document.createElement("span");
  place.className = "place visually-hidden";
  row.append(bar, document.createElement("bdi"), share, place);
  return row;
}

/** Names may be written from right to left, which must not turn what is around them. */
function setName(parent: HTMLElement, name: string): void {
  const holder = part(parent, "bdi");
  holder.textContent = name;
  holder.title = name;
}

function setFact(id: string, text: string | undefined): void {
  element(id).textContent = text ?? "";
  element(id).parentElement!.hidden = text === undefined;
}

function part(parent: HTMLElement, selector: string): HTMLElement {
  return parent.querySelector<HTMLElement>(selector)!;
}

function inBytes(bytes: number): string {
  return bytes < 99_950 ? `${(bytes / 1e3).toFixed(1)} kB` : `${number(bytes / 1e6)} MB`;
}

/** Three digits. */
function number(value: number): string {
  return value.toFixed(Math.max(0, 2 - Math.max(0, Math.floor(Math.log10(value)))));
}

function percent(fraction: number, digits: number): string {
  return `${(100 * fraction).toFixed(digits)} %`;
}
