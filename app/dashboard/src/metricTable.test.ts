import { describe, expect, it } from "vitest";
import { addRows, between, combine, MAX_ROWS, merge, NO_ROWS, onSharedSteps, rowsOf, tableOf } from "./metricTable";
import type { JobEvent } from "./types";

const row = (step: number, reward: number) => ({ step, values: { reward } });
const history = (steps: number[], reward: number[], is_sampled = false) => ({ steps, series: { reward }, is_sampled });
const stream = (...rows: ReturnType<typeof row>[]) => rows.reduce((old, added) => addRows(old, [added]), NO_ROWS);

describe("rowsOf", () => {
  const event = (type: string, data: object | null) => ({ type, data }) as JobEvent;
  it("keeps metric values only", () => {
    const data = { step: 3, total_steps: 9, train_loss: 1, scores: {}, loss: 1, "eval/reward": null };
    expect(rowsOf(event("metrics", data))).toEqual([{ step: 3, values: { loss: 1, "eval/reward": null } }]);
  });
  it("skips other events", () => {
    expect(rowsOf(event("message", { step: 3 }))).toEqual([]);
    expect(rowsOf(event("metrics", null))).toEqual([]);
  });
});

describe("merge", () => {
  const older = { steps: [1, 2, 3], series: { a: [1, 2, 3] } };
  it("appends steps and series", () => {
    expect(merge(older, { steps: [4], series: { b: [9] } })).toEqual({
      steps: [1, 2, 3, 4],
      series: { a: [1, 2, 3, null], b: [null, null, null, 9] },
    });
  });
  it("replaces whole rows of repeated steps", () => {
    expect(
      merge({ steps: [1, 2, 3], series: { a: [1, 2, 3], b: [7, 8, 9] } }, { steps: [2], series: { a: [20] } }),
    ).toEqual({
      steps: [1, 2, 3],
      series: { a: [1, 20, 3], b: [7, null, 9] },
    });
  });
  it("inserts missing steps in order", () => {
    expect(merge({ steps: [1, 4], series: { a: [1, 4] } }, { steps: [2, 3], series: { a: [2, 3] } }).steps).toEqual([
      1, 2, 3, 4,
    ]);
  });
  it("returns the older table for no rows", () => {
    expect(merge(older, tableOf(new Map()))).toBe(older);
  });
});

describe("combine", () => {
  it("counts steps of history and stream once", () => {
    const { table, isSampled } = combine(history([0, 1, 2], [0, 1, 2]), stream(row(2, 2), row(3, 3)));
    expect(table).toEqual({ steps: [0, 1, 2, 3], series: { reward: [0, 1, 2, 3] } });
    expect(isSampled).toBe(false);
  });
  it("prefers streamed rows to a late history", () => {
    // Step 2 is streamed before the response to a request arrives that was sent before the step.
    expect(combine(history([1], [1]), stream(row(2, 2))).table.series.reward).toEqual([1, 2]);
    expect(combine(history([1, 2], [1, 2]), stream(row(2, 20))).table.series.reward).toEqual([1, 20]);
  });
  it("takes the last value of a resumed attempt", () => {
    // The first attempt reaches step 4; the second resumes from step 2 and has repeated step 3 so far.
    const { table } = combine(history([1, 2], [1, 2]), stream(row(3, 3), row(4, 4), row(3, 30)));
    expect(table).toEqual({ steps: [1, 2, 3, 4], series: { reward: [1, 2, 30, 4] } });
  });
  it("loses no step while the history loads", () => {
    const rows = stream(row(5, 5), row(6, 6), row(7, 7));
    for (let read = 4; read <= 7; read += 1) {
      const steps = Array.from({ length: read }, (_, index) => index + 1);
      expect(combine(history(steps, steps), rows).table.steps).toEqual([1, 2, 3, 4, 5, 6, 7]);
    }
  });
  it("is sampled beyond the row limit", () => {
    const many = addRows(
      NO_ROWS,
      Array.from({ length: MAX_ROWS }, (_, step) => row(step, step)),
    );
    expect(combine(history([0], [0]), many).isSampled).toBe(false);
    const more = addRows(many, [row(MAX_ROWS, 1)]);
    expect(more.isPartial).toBe(true);
    expect([...more.rows.keys()]).toEqual([MAX_ROWS]);
    const all = combine(history([0], [0]), more);
    expect(all.isSampled).toBe(true);
    expect(all.table.steps.at(-1)).toBe(MAX_ROWS);
    expect(combine(history([0], [0], true), NO_ROWS).isSampled).toBe(true);
  });
});

describe("onSharedSteps", () => {
  it("aligns tables with different steps", () => {
    const tables = [
      { steps: [0, 2], series: { a: [1, 2] } },
      { steps: [1, 2], series: { a: [3, 4] } },
    ];
    const { steps, valuesOf } = onSharedSteps(tables);
    expect(steps).toEqual([0, 1, 2]);
    expect(valuesOf(0, "a")).toEqual([1, null, 2]);
    expect(valuesOf(1, "a")).toEqual([null, 3, 4]);
    expect(valuesOf(1, "b")).toEqual([null, null, null]);
  });
});

describe("between", () => {
  it("cuts a table to a range of steps", () => {
    const table = { steps: [0, 2, 4, 6], series: { a: [0, 2, 4, 6] } };
    expect(between(table, 1, 4)).toEqual({ steps: [2, 4], series: { a: [2, 4] } });
    expect(between(table, 7, 9)).toEqual({ steps: [], series: { a: [] } });
  });
});
