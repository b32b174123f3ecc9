/** Timing in turns, as `sterna benchmark` does: what else the machine does falls on all engines alike. */

import { median } from "../dist/median.js";

export { median };

// A turn is at least so long that timers do not count.
const TURN_MS = 50;
const WARM_UP_RUNS = 10;

/**
 * Time engines in turns.
 *
 * @param {Record<string, () => Promise<unknown>>} engines by name: what computes one run.
 * @param {number} rounds in each of which every engine has its turn; another one begins each.
 * @returns {Promise<Record<string, number[]>>} milliseconds of a run, one for each round.
 */
export async function takeTurns(engines, rounds) {
  const names = Object.keys(engines);
  const runs = {};
  const milliseconds = Object.fromEntries(names.map((name) => [name, []]));
  for (const name of names) {
    await time(engines[name], WARM_UP_RUNS);
    runs[name] = Math.max(1, Math.ceil(TURN_MS / (await time(engines[name], 1))));
  }
  for (let round = 0; round < rounds; ++round) {
    for (let turn = 0; turn < names.length; ++turn) {
      const name = names[(round + turn) % names.length];
      milliseconds[name].push(await time(engines[name], runs[name]));
    }
  }
  return milliseconds;
}

/** Of the values' ratios within each round. */
export function ratio(values, base) {
  return median(values.map((value, round) => value / base[round]));
}

async function time(run, runs) {
  const start = performance.now();
  for (let i = 0; i < runs; ++i) await run();
  return (performance.now() - start) / runs;
}
