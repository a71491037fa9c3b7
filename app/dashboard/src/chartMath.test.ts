import { describe, expect, it } from "vitest";
import { bounds, smooth, tickLabels, valueAt } from "./chartMath";

describe("smooth", () => {
  it("starts at the first value and keeps gaps", () => {
    expect(smooth([4, null, 4], 0.9)).toEqual([4, null, 4]);
    const values = smooth([0, 10], 0.5);
    expect(values[1]).toBeCloseTo(10 / 1.5);
  });
});

describe("an axis", () => {
  it("pads its values, even equal ones", () => {
    expect(bounds(0, 1)).toEqual([-0.08, 1.08]);
    expect(bounds(5, 5)).toEqual([4.5, 5.5]);
    expect(bounds(0.998, 1, true)).toEqual([-0.02, 1.02]);
    for (const [low, high] of [bounds(0, 0), bounds(null, null)]) expect(low).toBeLessThan(high);
  });
});

describe("labels of ticks", () => {
  it("have as many digits as tell them apart", () => {
    expect(tickLabels([0, 1e-5, 2e-5, null])).toEqual(["0", "1.0e-5", "2.0e-5", ""]);
    expect(tickLabels([1e-5, 1.02e-5, 1.04e-5])).toEqual(["1.00e-5", "1.02e-5", "1.04e-5"]);
    expect(tickLabels([0, 0.5, 1_000])).toEqual(["0", "0.5", "1,000"]);
  });
});

describe("the value at a step", () => {
  it("is the last measured one", () => {
    expect(valueAt([1, null, null, 4], 2)).toBe(1);
    expect(valueAt([1, null, null, 4], Infinity)).toBe(4);
    expect(valueAt([null, 2], 0)).toBeNull();
  });
});
