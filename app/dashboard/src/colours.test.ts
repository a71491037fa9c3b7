// The colours of sources and of advantages: contrast, and distance also for people with a colour-vision deficiency.
import { describe, expect, it } from "vitest";
import CSS from "./styles.css?raw";

type Triple = readonly [number, number, number];
type Matrix = readonly [Triple, Triple, Triple];

const THEMES = { light: /:root \{([^}]*)\}/, dark: /:root\[data-theme="dark"\] \{([^}]*)\}/ };

/** The colour of a variable in linear RGB. */
function colour(theme: keyof typeof THEMES, name: string): Triple {
  const hex = new RegExp(`--${name}: #(\\w+)`).exec(THEMES[theme].exec(CSS)?.[1] ?? "")?.[1] ?? "";
  const whole = hex.length === 3 ? hex.replace(/./g, "$&$&") : hex;
  expect(whole, `${name} is a hexadecimal colour`).toHaveLength(6);
  const part = (at: number) => {
    const value = Number.parseInt(whole.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  return [part(0), part(2), part(4)];
}

const times = (matrix: Matrix, [a, b, c]: Triple): Triple =>
  matrix.map(([x, y, z]) => x * a + y * b + z * c) as unknown as Triple;

/** WCAG contrast ratio. */
function contrast(a: Triple, b: Triple): number {
  const luminance = ([red, green, blue]: Triple) => 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05;
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y) as [number, number];
  return high / low;
}

/** Machado, Oliveira and Fernandes 2009, severity 1. */
const VISIONS: Record<string, Matrix> = {
  normal: [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
  ],
  protanopia: [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  deuteranopia: [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
  ],
  tritanopia: [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.3039],
  ],
};

/** Oklab (Ottosson 2020): the distance of two colours is about how different they look; 0.02 is just visible. */
function oklab(linear: Triple): Triple {
  const clipped = linear.map((value) => Math.min(1, Math.max(0, value))) as unknown as Triple;
  const cones = times(
    [
      [0.4122214708, 0.5363325363, 0.0514459929],
      [0.2119034982, 0.6806995451, 0.1073969566],
      [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    clipped,
  ).map(Math.cbrt) as unknown as Triple;
  return times(
    [
      [0.2104542553, 0.793617785, -0.0040720468],
      [1.9779984951, -2.428592205, 0.4505937099],
      [0.0259040371, 0.7827717662, -0.808675766],
    ],
    cones,
  );
}

const distance = (vision: Matrix, a: Triple, b: Triple): number => {
  const [first, second] = [oklab(times(vision, a)), oklab(times(vision, b))];
  return Math.hypot(...first.map((value, index) => value - (second[index] as number)));
};

const ADVANTAGES = ["positive", "negative"];
/** Expert, teacher, self. */
const SOURCES = ["chart-0", "chart-1", "chart-2"];
const ALL = [...ADVANTAGES, ...SOURCES];
const PAIRS = ALL.flatMap((one, index) => ALL.slice(index + 1).map((other) => [one, other] as const));

/** Tritanopia is a thousand times rarer than the other two, and labels repeat what the colours say. */
const leastDistance = (vision: string) => (vision === "tritanopia" ? 0.05 : 0.1);

describe.each(["light", "dark"] as const)("in the %s theme", (theme) => {
  it.each(ALL)("%s stands out from the background", (name) => {
    for (const background of ["panel", "bg"]) {
      expect(contrast(colour(theme, name), colour(theme, background))).toBeGreaterThan(4.5);
    }
  });
  it.each(Object.keys(VISIONS))("positive, negative and the sources differ in %s", (vision) => {
    for (const [one, other] of PAIRS) {
      const apart = distance(VISIONS[vision] as Matrix, colour(theme, one), colour(theme, other));
      expect(apart, `${one} and ${other}`).toBeGreaterThan(leastDistance(vision));
    }
  });
});
