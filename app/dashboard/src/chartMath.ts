// Arithmetic of charts: smoothing, values under the cursor, bounds of an axis.

/** Exponential moving average with bias correction at the start; null values stay null. */
export function smooth(values: (number | null)[], weight: number): (number | null)[] {
  if (weight <= 0) return values;
  let mean = 0;
  let weights = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = mean * weight + (1 - weight) * value;
    weights = weights * weight + (1 - weight);
    return mean / weights;
  });
}

/** Returns the value at an index, or the last value before it: a series has gaps at steps where it is not measured. */
export function valueAt(values: (number | null)[], index: number): number | null {
  for (let at = Math.min(index, values.length - 1); at >= 0; at -= 1) {
    const value = values[at];
    if (value !== null && value !== undefined) return value;
  }
  return null;
}

/** Returns the bounds of an axis with padding; equal values lie in its middle. */
export function bounds(low: number | null, high: number | null, isShare = false): [number, number] {
  if (isShare) return [-0.02, 1.02];
  if (low === null || high === null) return [0, 1];
  if (low === 0 && high === 0) return [-0.02, 1];
  const padding = low === high ? Math.abs(low) * 0.1 : (high - low) * 0.08;
  return [low - padding, high + padding];
}

/** Whether a logarithmic axis can show these lines: it has no place for 0 and negative values. */
export function canBeLogarithmic(lines: { values: (number | null)[] }[]): boolean {
  return lines.every(({ values }) => values.every((value) => value === null || value > 0));
}

/** Digits of a label, from the fewest that are tried to the most that fit. */
const DIGITS = { least: 1, most: 6 };

/** Returns the labels of an axis, with as many digits as tell them apart; uPlot passes null for a tick without a label. */
export function tickLabels(ticks: (number | null)[]): string[] {
  const shown = ticks.filter((value) => value !== null);
  let labels: string[] = [];
  for (let digits = DIGITS.least; digits <= DIGITS.most; digits += 1) {
    labels = ticks.map((value) => (value === null ? "" : tickLabel(value, digits)));
    if (new Set(labels.filter(Boolean)).size === new Set(shown).size) break;
  }
  return labels;
}

function tickLabel(value: number, digits: number): string {
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(digits);
  return Number(value.toPrecision(6)).toLocaleString("en-US", { maximumFractionDigits: 6 });
}
