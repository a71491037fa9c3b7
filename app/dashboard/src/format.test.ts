import { describe, expect, it } from "vitest";
import { ago, bytes, duration, number, signed } from "./format";

describe("format", () => {
  it("shows the age of a time", () => {
    expect(ago(1000, 1004)).toBe("just now");
    expect(ago(1000, 1000 + 125)).toMatch(/^2\s?m.* ago$/);
    expect(ago(1000, 1000 + 3 * 86_400)).toMatch(/^3\s?d.* ago$/);
  });
  it("writes durations in the two largest units", () => {
    expect(duration(12.4)).toBe("12 s");
    expect(duration(200)).toBe("3 min 20 s");
    expect(duration(3_900)).toBe("1 h 05 min");
  });
  it("writes sizes and numbers", () => {
    expect(bytes(999)).toBe("999 B");
    expect(bytes(1_500_000)).toBe("1.5 MB");
    expect(number(null)).toBe("–");
    expect(number(0.12345)).toBe("0.123");
    expect(number(1234.5)).toBe("1,235");
    expect(number(0.00001)).toBe("1.0e-5");
    expect(signed(0.5)).toBe("+0.5");
    expect(signed(-0.5)).toBe("-0.5");
  });
});
