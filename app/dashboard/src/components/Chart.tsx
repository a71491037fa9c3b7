// A line chart (uPlot) that adapts to the theme, its width and new values. All charts of a page share the cursor and the
// range of steps; each has its own range of values.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { bounds, canBeLogarithmic, smooth, tickLabels, valueAt } from "../chartMath";
import { number, plural } from "../format";
import { onTheme, theme, token } from "../theme";
import { drawLine, drawMarks } from "./chartDrawing";

export interface Line {
  label: string;
  colour: number;
  values: (number | null)[];
  /** Rare, exact measurements such as held-out results: never smoothed. */
  isExact?: boolean;
  /** Lines of the job that this one is compared with. */
  isDashed?: boolean;
}

/** First and last visible step. */
export type Zoom = readonly [number, number];

/** What the user has chosen for a chart; each browser stores it. */
export interface ChartChoices {
  isLog: boolean;
  toggleLog: () => void;
  isPinned: boolean;
  togglePin: () => void;
}

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
  choices: ChartChoices;
}

/** What uPlot's callbacks read. */
interface Current extends ChartProps {
  isLog: boolean;
  /** The visible values; undefined for all. */
  yZoom: Zoom | undefined;
  setYZoom: (zoom: Zoom | undefined) => void;
}

const HEIGHT = 170;
const UNSEEN_MS = 1000;
const PALETTE = 8;
const SPARSE = 60;
/** A drag of fewer pixels in one direction than this selects all of that direction. */
const DIAGONAL_PX = 30;
const LEAST_PX = 4;
const WIDTH = 1.8;
const DASHES = [5, 4];
const FAINT = "40"; // alpha of the values behind their smoothed line
/** Steps between ticks: whole numbers only. */
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6];
const FONT = "11px system-ui, sans-serif";

const isSparse = (values: (number | null)[]): boolean => values.filter((value) => value !== null).length <= SPARSE;

export function Chart(props: ChartProps) {
  const { title, hint, unit, steps, lines, markers = [], smoothing, isVisible, zoom, choices } = props;
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
  const [yZoom, setYZoom] = useState<Zoom>();
  const hasLog = useMemo(() => canBeLogarithmic(lines), [lines]);
  const isLog = choices.isLog && hasLog;
  const shape = [isLog, ...lines.map((line) => `${line.label}:${line.colour}:${isSparse(line.values)}`)].join("|");
  const current = useRef<Current>({ ...props, isLog, yZoom, setYZoom });
  current.current = { ...props, isLog, yZoom, setYZoom };

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
  useEffect(() => setYZoom(undefined), [isLog]);
  useEffect(() => {
    const draw = () => plot.current?.setData(data);
    if (!isVisible) {
      const timer = setTimeout(draw, UNSEEN_MS);
      return () => clearTimeout(timer);
    }
    const frame = requestAnimationFrame(draw); // at most once a frame, however often the data changes
    return () => cancelAnimationFrame(frame);
  }, [data, isVisible, markers.length, zoom?.[0], zoom?.[1], yZoom]);

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
        <span class="chart-tools">
          {yZoom && (
            <button type="button" class="small" onClick={() => setYZoom(undefined)}>
              Show all values
            </button>
          )}
          {!props.isShare && (
            <button
              type="button"
              class="small"
              aria-label={`Log scale of ${title}`}
              aria-pressed={isLog}
              disabled={!hasLog}
              title={hasLog ? "Logarithmic scale" : "A logarithmic scale needs values above 0"}
              onClick={choices.toggleLog}
            >
              log
            </button>
          )}
          <button
            type="button"
            class="small"
            aria-label={`${choices.isPinned ? "Unpin" : "Pin"} ${title}`}
            title={choices.isPinned ? "" : "Pin to the top, for all jobs in this browser"}
            data-pin={title}
            onClick={choices.togglePin}
          >
            {choices.isPinned ? "unpin" : "pin"}
          </button>
        </span>
        {hint && <p class="hint">{hint}</p>}
      </figcaption>
      <div
        ref={box}
        role="img"
        aria-label={`${title}. Latest: ${summary}`}
        onDblClick={() => {
          setYZoom(undefined);
          props.onZoom(undefined);
        }}
      />
      <ul class="legend">
        {lines.map((line, index) => (
          <li key={line.label}>
            <i class={`swatch c${line.colour % PALETTE} ${line.isDashed ? "dashed" : ""}`} /> {line.label}{" "}
            <b>{number(valueAt(drawn[index] ?? [], at ?? Infinity))}</b>
          </li>
        ))}
        {restarts.length > 0 && (
          <li title="Steps from which another attempt resumed">
            <i class="swatch restart" /> resumed {restarts.length > 1 && plural(restarts.length, "time")}
          </li>
        )}
      </ul>
    </figure>
  );
}

function optionsOf(current: { current: Current }, width: number, setAt: (at: number | null) => void): uPlot.Options {
  const { lines, isShare, isLog } = current.current;
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
    const dashes = lines[(index - 1) % count]?.isDashed ? DASHES : [];
    if (index > count) drawLine(self, index, colour, WIDTH, dashes);
    else if (current.current.smoothing > 0) drawLine(self, index, colour + FAINT, 0);
  };
  return {
    width,
    height: HEIGHT,
    padding: [8, 10, 0, 0],
    legend: { show: false },
    cursor: {
      // Other charts follow the cursor, but not the selection: its values would mean nothing there.
      sync: { key: "steps", filters: { pub: (type) => type !== "mousedown" && type !== "mouseup" } },
      points: { size: 6 },
      drag: { x: true, y: true, uni: DIAGONAL_PX, setScale: false },
    },
    scales: {
      x: { time: false, range: (_, low, high) => [...(current.current.zoom ?? spread(low, high))] },
      y: {
        distr: isLog ? 3 : 1,
        range: (_, low, high) => [...(current.current.yZoom ?? yRange(low, high, isShare, isLog))],
      },
    },
    axes: [
      { ...axis, size: 28, incrs: WHOLE, values: (_, ticks) => tickLabels(ticks) },
      { ...axis, size: 54, values: (_, ticks) => tickLabels(ticks) },
    ],
    series: [{}, ...lines.map((_, index) => series(index, false)), ...lines.map((_, index) => series(index, true))],
    hooks: {
      setCursor: [(self) => setAt(self.cursor.idx ?? null)],
      setSelect: [(self) => zoomTo(self, current.current)],
      drawSeries: [draw],
      draw: [(self) => drawMarks(self, current.current.markers ?? [])],
    },
  };
}

/** Widens the range of a single step, which would have no width. */
const spread = (low: number, high: number): [number, number] =>
  low === high ? [Math.max(0, low - 1), high + 1] : [low, high];

function yRange(low: number | null, high: number | null, isShare: boolean | undefined, isLog: boolean): Zoom {
  if (!isLog) return bounds(low, high, isShare);
  return low === null || high === null ? [0.1, 1] : (uPlot.rangeLog(low, high, 10, false) as [number, number]);
}

/** Zooms in to the selection: all charts to its steps, this chart to its values. */
function zoomTo(self: uPlot, { onZoom, setYZoom }: Current): void {
  const { left, top, width, height } = self.select;
  if (width < LEAST_PX || height < LEAST_PX) return;
  self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  const [from, to] = [self.posToVal(left, "x"), self.posToVal(left + width, "x")];
  if (width < self.over.clientWidth - 1 && to - from >= 1) onZoom([Math.floor(from), Math.ceil(to)]);
  if (height < self.over.clientHeight - 1) setYZoom([self.posToVal(top + height, "y"), self.posToVal(top, "y")]);
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
