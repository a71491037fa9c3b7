// Controls for all charts of a page: smoothing and the range of steps.
import type { ComponentChildren } from "preact";
import { percent } from "../format";
import type { Zoom } from "./Chart";

interface Controls {
  smoothing: number;
  setSmoothing: (weight: number) => void;
  zoom: Zoom | undefined;
  setZoom: (zoom: Zoom | undefined) => void;
  last: number;
  children?: ComponentChildren;
}

export function ChartControls({ smoothing, setSmoothing, zoom, setZoom, last, children }: Controls) {
  const [from, to] = zoom ?? [0, last];
  const set = (low: number, high: number) => high > low && setZoom([Math.max(0, low), high]);
  return (
    <div class="row controls">
      <label class="row">
        Smoothing
        <input
          type="range"
          min="0"
          max="0.98"
          step="0.02"
          value={smoothing}
          onInput={(event) => setSmoothing(Number(event.currentTarget.value))}
        />
        <output class="soft">{percent(smoothing)}</output>
      </label>
      <fieldset class="row">
        <legend class="hidden">Range of steps</legend>
        Steps
        <input
          class="short"
          type="number"
          min="0"
          aria-label="From step"
          value={from}
          onChange={(event) => set(Number(event.currentTarget.value), to)}
        />
        to
        <input
          class="short"
          type="number"
          min="1"
          aria-label="To step"
          value={to}
          onChange={(event) => set(from, Number(event.currentTarget.value))}
        />
        {zoom ? (
          <button type="button" onClick={() => setZoom(undefined)}>
            Show all steps
          </button>
        ) : (
          <small>or drag across a chart to zoom in; double-click to zoom out</small>
        )}
      </fieldset>
      {children}
    </div>
  );
}
