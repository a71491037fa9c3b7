// Draws a chart's lines and markers onto its canvas, with uPlot's scales.
import type uPlot from "uplot";
import { token } from "../theme";

/**
 * Points per stroke. Without a GPU, one path that goes up and down a thousand times takes a hundred times as long as its
 * pieces: the rasteriser sorts the crossing edges of a path for every row of pixels.
 */
const PIECE = 16;

/**
 * Draws a line through all values but null, `width` CSS pixels wide; 0 is the thinnest line of the screen. `dashes` are the
 * lengths of dashes and gaps in CSS pixels; none for a solid line.
 */
export function drawLine(self: uPlot, index: number, colour: string, width: number, dashes: number[] = []): void {
  const { ctx, bbox, data } = self;
  const [steps, values] = [data[0], data[index]];
  if (!values) return;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.strokeStyle = colour;
  ctx.lineWidth = width * devicePixelRatio || 1;
  ctx.setLineDash(dashes.map((length) => length * devicePixelRatio));
  ctx.lineJoin = ctx.lineCap = "round";
  let points = 0;
  for (let at = 0; at < values.length; at += 1) {
    const value = values[at];
    if (value === null || value === undefined) continue;
    const [x, y] = [self.valToPos(steps[at] as number, "x", true), self.valToPos(value, "y", true)];
    if (points === 0) ctx.beginPath();
    ctx.lineTo(x, y);
    points += 1;
    if (points <= PIECE || dashes.length) continue; // each piece would begin with a dash
    ctx.stroke();
    ctx.beginPath();
    ctx.moveTo(x, y);
    points = 1;
  }
  if (points > 1) ctx.stroke();
  ctx.restore();
}

/** Draws a dashed vertical line at each step from which an attempt resumed. */
export function drawMarks(self: uPlot, markers: number[]): void {
  if (!markers.length) return;
  const { ctx, bbox } = self;
  ctx.save();
  ctx.strokeStyle = token("warn");
  ctx.lineWidth = devicePixelRatio * 1.5;
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
