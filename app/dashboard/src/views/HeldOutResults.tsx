// Results before and after training, on the held-out rows that did not select the adapter.
import { useState } from "preact/hooks";
import { DataTable } from "../components/DataTable";
import { number, plural, signed } from "../format";

type Result = Record<string, unknown> & {
  step?: number;
  samples?: Sample[];
  intervals?: Record<string, [number, number]>;
  rows?: number;
};
interface Sample {
  /** Absent in jobs of earlier versions. */
  line?: number;
  prompt: string;
  response: string;
  reward: number | null;
  reference?: string | null;
}

/** The results of an evaluation that are shown, in this order; `less` means that lower is better. */
const RESULTS: { name: RegExp; title: string; less?: boolean; isNeutral?: boolean }[] = [
  { name: /^eval\/reward$/, title: "reward" },
  { name: /^eval\/accuracy$/, title: "accuracy" },
  { name: /^eval\/pass@/, title: "" },
  { name: /^eval\/rewards\/margins$/, title: "reward margin" },
  { name: /^eval\/rewards\/accuracies$/, title: "pairs won" },
  { name: /^eval\/loss$/, title: "loss", less: true },
  { name: /^eval\/forward_kl$/, title: "KL from starting model", isNeutral: true },
  { name: /^eval\/entropy$/, title: "entropy", isNeutral: true },
];

export interface HeldOutResult {
  name: string;
  title: string;
  before: number | undefined;
  after: number | undefined;
  /** Above 0 for an improvement. */
  gain: number;
  /** The 95 % interval of `after`, or of `before` as long as there is no other. */
  interval: [number, number] | undefined;
}

/** Results before and after training, of a job or of a model. */
type Evaluation = { before?: unknown; after?: unknown; selection_rows?: unknown; lines?: unknown } | null | undefined;

/** Returns held-out results before and after training. */
export function heldOutResults(evaluation: Evaluation): HeldOutResult[] {
  const { before, after } = (evaluation ?? {}) as { before?: Result | null; after?: Result | null };
  const flat = (result: Result | null | undefined): Record<string, unknown> =>
    (result?.values ?? result ?? {}) as Record<string, unknown>;
  const [old, fresh] = [flat(before), flat(after)];
  const value = (entry: unknown): number | undefined => (typeof entry === "number" ? entry : undefined);
  return RESULTS.flatMap(({ name, title, less, isNeutral }) =>
    [...new Set([...Object.keys(old), ...Object.keys(fresh)])]
      .filter((key) => name.test(key))
      .map((key) => {
        const [from, to] = [value(old[key]), value(fresh[key])];
        const change = from === undefined || to === undefined || isNeutral ? 0 : (to - from) * (less ? -1 : 1);
        return {
          name: key,
          title: title || key.replace("eval/", ""),
          before: from,
          after: to,
          gain: Math.abs(change) < 1e-9 ? 0 : change,
          interval: (after ?? before)?.intervals?.[key],
        };
      }),
  );
}

export function HeldOutResults({ evaluation }: { evaluation: Evaluation }) {
  const { before, after } = (evaluation ?? {}) as { before?: Result; after?: Result };
  const results = heldOutResults(evaluation);
  if (!results.length) return null;
  return (
    <section aria-label="Held-out results">
      <div class="tiles">
        {results.map(({ name, title, before: from, after: to, gain, interval }) => (
          <div class="tile" key={name}>
            <span>held-out {title}</span>
            <strong>{number(to ?? from)}</strong>
            <small class={gain > 0 ? "good" : gain < 0 ? "bad" : ""}>
              {to === undefined || from === undefined
                ? "before training"
                : `${gain > 0 ? "✓ " : gain < 0 ? "✕ " : ""}${signed(to - from)} from ${number(from)}`}
            </small>
            {interval && (
              <small title="95 % confidence interval">
                95 %: {number(interval[0])} to {number(interval[1])}
              </small>
            )}
          </div>
        ))}
      </div>
      <RowsOfResults evaluation={evaluation} />
      {after?.samples?.length ? <Samples before={before?.samples ?? []} after={after.samples} /> : null}
    </section>
  );
}

/** Which rows the results are measured on, and which ones selected the adapter. */
function RowsOfResults({ evaluation }: { evaluation: Evaluation }) {
  const { before, after } = (evaluation ?? {}) as { before?: Result; after?: Result };
  const rows = (after ?? before)?.rows;
  const selecting = evaluation?.selection_rows;
  if (!rows || typeof selecting !== "number") return null;
  const lines = evaluation?.lines as { selection: number[]; reporting: number[] } | undefined;
  return (
    <div class="soft held-out-rows">
      Measured on {plural(rows, "held-out row")}, with 95 % intervals.{" "}
      {selecting
        ? `${plural(selecting, "other row")} selected the adapter and are charted below.`
        : "They are too few to be split, so none selected the adapter: it is that of the last step."}
      {lines && (
        <details>
          <summary>Which rows?</summary>
          <p>
            Reporting: lines {ranges(lines.reporting)}
            {lines.selection.length > 0 && <>. Selecting: lines {ranges(lines.selection)}</>}
          </p>
        </details>
      )}
    </div>
  );
}

/** Formats ascending numbers as "1-3, 7, 9-12". */
export function ranges(lines: number[]): string {
  const parts: [number, number][] = [];
  for (const line of lines) {
    const last = parts.at(-1);
    if (last && last[1] === line - 1) last[1] = line;
    else parts.push([line, line]);
  }
  return parts.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(", ");
}

/** Samples that are shown, in a few lines each, until the user asks for all. */
const FIRST_SAMPLES = 4;

function Samples({ before, after }: { before: Sample[]; after: Sample[] }) {
  const [isWhole, setWhole] = useState(false);
  return (
    <details class={`samples ${isWhole ? "" : "short"}`} open>
      <summary>Held-out samples before and after</summary>
      <DataTable label="Answers before and after" columns={["Question", "Before", "After"]}>
        {after.slice(0, isWhole ? undefined : FIRST_SAMPLES).map((sample, index) => (
          <tr key={index}>
            <td class="text">
              <div>
                {sample.line !== undefined && <small class="soft">line {sample.line} </small>}
                {sample.prompt}
              </div>
            </td>
            {[before[index], sample].map((answer, column) => (
              <td key={column} class="text">
                <div>
                  <small class="soft">reward</small> <b>{number(answer?.reward)}</b> {answer?.response.trim()}
                </div>
              </td>
            ))}
          </tr>
        ))}
      </DataTable>
      <button type="button" class="small" aria-expanded={isWhole} onClick={() => setWhole(!isWhole)}>
        {isWhole ? "Show less" : `Show ${plural(after.length, "sample")} in full`}
      </button>
    </details>
  );
}
