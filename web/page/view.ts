/** What the page shows. Names and messages hold what strangers wrote: they are put in as text, never as markup. */

import type { Progress } from "../dist/index.js";
import type { Answer, Facts } from "./network.js";

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

/** Show answers, those of other activations being hidden. */
export function showAnswers(answers: readonly Answer[]): void {
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
  const agree = first.classes[0]?.index === second.classes[0]?.index;
  return `${agree ? "Both say the same." : "They say different things."} With float32 activations it ${times}.`;
}

export function hint(text: string): void {
  element("comparison").textContent = text;
  element("comparison").hidden = text === "";
}

/** One line for those who listen. */
export function spoken(answer: Answer): string {
  const [best] = answer.classes;
  if (best === undefined) return "";
  return `${best.label}, ${percent(best.probability, 0)}, in ${number(answer.milliseconds)} milliseconds`;
}

function showAnswer(card: HTMLElement, { classes, milliseconds }: Answer): void {
  part(card, ".milliseconds").textContent = `${number(milliseconds)} ms`;
  part(card, ".rate").textContent = `${Math.round(1000 / milliseconds).toLocaleString("en")} frames a second`;
  const list = part(card, ".classes");
  while (list.children.length > classes.length) list.lastElementChild!.remove();
  while (list.children.length < classes.length) list.append(makeRow());
  for (const [place, { label, probability }] of classes.entries()) {
    const row = list.children[place] as HTMLElement;
    setName(row, label);
    part(row, ".percent").textContent = percent(probability, 1);
    part(row, ".bar").style.width = `${100 * probability}%`;
  }
}

function makeRow(): HTMLLIElement {
  const row = document.createElement("li");
  const bar = document.createElement("span");
  bar.className = "bar";
  const share = document.createElement("span");
  share.className = "percent";
  row.append(bar, document.createElement("bdi"), share);
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
