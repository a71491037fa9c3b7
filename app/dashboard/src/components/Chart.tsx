// A line chart (uPlot) that adapts to the theme, its width and new values. All charts of a page share cursor and zoom.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { bounds, smooth, valueAt } from "../chartMath";
import { number } from "../format";
import { onTheme, theme, token } from "../theme";
import { drawLine, drawMarks } from "./chartDrawing";

export interface Line {
  label: string;
  colour: number;
  values: (number | null)[];
  /** Rare, exact measurements such as held-out results: never smoothed. */
  isExact?: boolean;
}

/** First and last visible step. */
export type Zoom = readonly [number, number];

interface ChartProps {
  title: string;
  hint?: string;
  unit?: string;
  isShare?: boolean;
  steps: number[];
  lines: Line[];
  /** Steps from which an attempt resumed. */
  markers?: number[];
  smoothing: number;
  /** In or near the viewport. A chart outside it is redrawn only once its values have stopped changing. */
  isVisible: boolean;
  zoom: Zoom | undefined;
  onZoom: (zoom: Zoom | undefined) => void;
}

const HEIGHT = 170;
const UNSEEN_MS = 1000;
const PALETTE = 8;
const SPARSE = 60;
const WIDTH = 1.8;
const FAINT = "40"; // alpha of the values behind their smoothed line
/** Steps between ticks: whole numbers only. */
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6];
const FONT = "11px system-ui, sans-serif";

const isSparse = (values: (number | null)[]): boolean => values.filter((value) => value !== null).length <= SPARSE;
const tick = (value: number): string => {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return number(value);
  return Number(value.toPrecision(6)).toLocaleString("en-US", { maximumFractionDigits: 6 });
};

export function Chart(props: ChartProps) {
  const { title, hint, unit, steps, lines, markers = [], smoothing, isVisible, zoom } = props;
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>();
  const [shade, setShade] = useState(theme());
  const [at, setAt] = useState<number | null>(null);
  const drawn = useMemo(
    () => lines.map((line) => smooth(line.values, line.isExact ? 0 : smoothing)),
    [lines, smoothing],
  );
  const data = useMemo(
    () => [steps, ...lines.map((line) => line.values), ...drawn] as uPlot.AlignedData,
    [steps, lines, drawn],
  );
  const shape = lines.map((line) => `${line.label}:${line.colour}:${isSparse(line.values)}`).join("|");
  const current = useRef(props);
  current.current = props;

  useEffect(() => onTheme(() => setShade(theme())), []);
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const chart = new uPlot(optionsOf(current, element.clientWidth || 320, setAt), data, element);
    plot.current = chart;
    const observer = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height: HEIGHT }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      chart.destroy();
    };
  }, [shape, shade]);
  useEffect(() => {
    const draw = () => plot.current?.setData(data);
    if (!isVisible) {
      const timer = setTimeout(draw, UNSEEN_MS);
      return () => clearTimeout(timer);
    }
    const frame = requestAnimationFrame(draw); // at most once a frame, however often the data changes
    return () => cancelAnimationFrame(frame);
  }, [data, isVisible, markers.length, zoom?.[0], zoom?.[1]]);

  const summary = lines.map((line) => `${line.label} ${number(valueAt(line.values, Infinity))}`).join(", ");
  const restarts = markers.filter((step) => step <= (steps.at(-1) ?? 0));
  return (
    <figure class="chart">
      <figcaption>
        <h3>
          {title} {unit && <small>{unit}</small>}
        </h3>
        <span class="at">
          {at !== null && steps[at] !== undefined ? `step ${steps[at].toLocaleString("en-US")}` : ""}
        </span>
        {hint && <p class="hint">{hint}</p>}
      </figcaption>
      <div ref={box} role="img" aria-label={`${title}. Latest: ${summary}`} />
      <ul class="legend">
        {lines.map((line, index) => (
          <li key={line.label}>
            <i class={`swatch c${line.colour % PALETTE}`} /> {line.label}{" "}
            <b>{number(valueAt(drawn[index] ?? [], at ?? Infinity))}</b>
          </li>
        ))}
        {restarts.length > 0 && (
          <li title="Steps from which another attempt resumed">
            <i class="swatch restart" /> resumed {restarts.length > 1 && `${restarts.length} times`}
          </li>
        )}
      </ul>
    </figure>
  );
}

function optionsOf(current: { current: ChartProps }, width: number, setAt: (at: number | null) => void): uPlot.Options {
  const { lines, isShare } = current.current;
  const count = lines.length;
  const colours = lines.map((line) => token(`chart-${line.colour % PALETTE}`));
  const grid = { stroke: token("line"), width: 1 };
  const axis = { stroke: token("soft"), grid, ticks: { ...grid, size: 4 }, font: FONT, gap: 4 };
  const series = (index: number, isDrawn: boolean): uPlot.Series => ({
    stroke: colours[index] as string,
    paths: () => null, // the hook `drawSeries` draws the line
    points: { show: isDrawn && isSparse(lines[index]?.values ?? []), size: 5 },
  });
  const draw = (self: uPlot, index: number) => {
    const colour = colours[(index - 1) % count] as string;
    if (index > count) drawLine(self, index, colour, WIDTH);
    else if (current.current.smoothing > 0) drawLine(self, index, colour + FAINT, 0);
  };
  return {
    width,
    height: HEIGHT,
    padding: [8, 10, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: "steps" }, points: { size: 6 }, drag: { x: true, y: false, setScale: false } },
    scales: {
      x: { time: false, range: (_, low, high) => [...(current.current.zoom ?? spread(low, high))] },
      y: { range: (_, low, high) => bounds(low, high, isShare) },
    },
    axes: [
      { ...axis, size: 28, incrs: WHOLE, values: (_, ticks) => ticks.map(tick) },
      { ...axis, size: 54, values: (_, ticks) => ticks.map(tick) },
    ],
    series: [{}, ...lines.map((_, index) => series(index, false)), ...lines.map((_, index) => series(index, true))],
    hooks: {
      setCursor: [(self) => setAt(self.cursor.idx ?? null)],
      setSelect: [(self) => zoomTo(self, current.current.onZoom)],
      drawSeries: [draw],
      draw: [(self) => drawMarks(self, current.current.markers ?? [])],
    },
  };
}

/** Widens the range of a single step, which would have no width. */
const spread = (low: number, high: number): [number, number] =>
  low === high ? [Math.max(0, low - 1), high + 1] : [low, high];

function zoomTo(self: uPlot, onZoom: ChartProps["onZoom"]): void {
  const { left, width } = self.select;
  if (width < 4) return;
  const [from, to] = [self.posToVal(left, "x"), self.posToVal(left + width, "x")];
  self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  if (to - from >= 1) onZoom([Math.floor(from), Math.ceil(to)]);
}

export function Sparkline({ values, label }: { values: number[]; label: string }) {
  if (values.length < 2) return <span class="spark" />;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const points = values.map((value, index) => {
    const x = (index / (values.length - 1)) * 96 + 2;
    const y = 22 - ((value - low) / (high - low || 1)) * 20;
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  return (
    <svg class="spark" viewBox="0 0 100 24" role="img" aria-label={label} preserveAspectRatio="none">
      <polyline
        points={points.join(" ")}
        fill="none"
        stroke="currentColor"
        stroke-width="1.6"
        vector-effect="non-scaling-stroke"
      />
    </svg>
  );
}
