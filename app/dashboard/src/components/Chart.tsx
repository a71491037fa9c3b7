// A line chart (uPlot) that follows the theme, its width and new values; all charts of a page share their cursor.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { number } from "../format";
import { smooth } from "../series";
import { onTheme, theme, token } from "../theme";

export interface Line {
  label: string;
  colour: number;
  values: (number | null)[];
}

const HEIGHT = 190;
const PALETTE = 8;
const SPARSE = 60;
/** Steps between ticks: there are no halves of a step. */
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6];

const isSparse = (values: (number | null)[]): boolean => values.filter((one) => one !== null).length <= SPARSE;

export function Chart({
  title,
  hint,
  steps,
  lines,
  markers = [],
  smoothing = 0,
}: {
  title: string;
  hint?: string;
  steps: number[];
  lines: Line[];
  markers?: number[];
  smoothing?: number;
}) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>();
  const [shade, setShade] = useState(theme());
  const [at, setAt] = useState<number | null>(null);
  const drawn = lines.map((line) => smooth(line.values, smoothing));
  const data = [steps, ...drawn] as uPlot.AlignedData;
  const shape = lines.map((line) => `${line.label}:${line.colour}:${isSparse(line.values)}`).join("|");
  const marks = useRef(markers);
  marks.current = markers;

  useEffect(() => onTheme(() => setShade(theme())), []);
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const grid = { stroke: token("line"), width: 1 };
    const axis = { stroke: token("soft"), grid, ticks: grid, font: "11px system-ui, sans-serif" };
    const options: uPlot.Options = {
      width: element.clientWidth || 320,
      height: HEIGHT,
      legend: { show: false },
      cursor: { sync: { key: "steps" }, points: { size: 6 } },
      scales: { x: { time: false } },
      axes: [
        { ...axis, incrs: WHOLE },
        { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => (Math.abs(tick) < 1e-3 ? number(tick) : String(Number(tick.toPrecision(6))))) },
      ],
      series: [
        {},
        ...lines.map((line) => ({
          stroke: token(`chart-${line.colour % PALETTE}`),
          width: 1.8,
          spanGaps: true,
          points: { show: isSparse(line.values), size: 5 },
        })),
      ],
      hooks: {
        setCursor: [(self) => setAt(self.cursor.idx ?? null)],
        draw: [(self) => drawMarks(self, marks.current)],
      },
    };
    plot.current = new uPlot(options, data, element);
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.current?.destroy();
    };
  }, [shape, shade]);
  useEffect(() => plot.current?.setData(data), [steps, lines, smoothing, markers.length]);

  const last = (values: (number | null)[]) => values.findLast((one) => one !== null) ?? null;
  const summary = lines.map((line) => `${line.label} ${number(last(line.values))}`).join(", ");
  return (
    <figure class="chart">
      <figcaption title={hint}>
        <h3>{title}</h3>
        <span class="at">{at !== null && steps[at] !== undefined ? `step ${steps[at]}` : ""}</span>
      </figcaption>
      <div ref={box} role="img" aria-label={`${title}. Latest: ${summary}`} />
      <ul class="legend">
        {lines.map((line, index) => (
          <li key={line.label}>
            <i class={`swatch c${line.colour % PALETTE}`} /> {line.label}{" "}
            <b>{number(at === null ? last(line.values) : drawn[index]?.[at])}</b>
          </li>
        ))}
      </ul>
    </figure>
  );
}

/** Dashed lines where an attempt took the job up again. */
function drawMarks(self: uPlot, markers: number[]): void {
  const { ctx, bbox } = self;
  ctx.save();
  ctx.strokeStyle = token("warn");
  ctx.setLineDash([4, 4]);
  for (const step of markers) {
    const x = Math.round(self.valToPos(step, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
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
      <polyline points={points.join(" ")} fill="none" stroke="currentColor" stroke-width="1.6" vector-effect="non-scaling-stroke" />
    </svg>
  );
}
