// Arithmetic of charts: smoothing, values under the cursor, bounds of an axis.

/** Exponential moving average, unbiased at its beginning; gaps stay gaps. */
export function smooth(values: (number | null)[], weight: number): (number | null)[] {
  if (weight <= 0) return values;
  let mean = 0;
  let seen = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = mean * weight + (1 - weight) * value;
    seen = seen * weight + (1 - weight);
    return mean / seen;
  });
}

/** The value at an index, or the last one before it: series that are measured at other steps have gaps there. */
export function valueAt(values: (number | null)[], index: number): number | null {
  for (let at = Math.min(index, values.length - 1); at >= 0; at -= 1) {
    const value = values[at];
    if (value !== null && value !== undefined) return value;
  }
  return null;
}

/** Bounds of an axis with some air; values that are all alike lie in its middle. */
export function bounds(low: number | null, high: number | null, isShare = false): [number, number] {
  if (isShare) return [-0.02, 1.02];
  if (low === null || high === null) return [0, 1];
  if (low === 0 && high === 0) return [-0.02, 1];
  const air = low === high ? Math.abs(low) * 0.1 : (high - low) * 0.08;
  return [low - air, high + air];
}
