// Results on held-out rows before and after training.
import { useState } from "preact/hooks";
import { DataTable } from "../components/DataTable";
import { number, plural, signed } from "../format";

type Result = Record<string, unknown> & { step?: number; samples?: Sample[] };
interface Sample {
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
  { name: /^eval\/forward_kl$/, title: "KL from base model", isNeutral: true },
  { name: /^eval\/entropy$/, title: "entropy", isNeutral: true },
];

export interface HeldOutResult {
  name: string;
  title: string;
  before: number | undefined;
  after: number | undefined;
  /** Above 0 for an improvement. */
  gain: number;
}

/** Results before and after training, of a job or of a model. */
type Evaluation = { before?: unknown; after?: unknown } | null | undefined;

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
        {results.map(({ name, title, before: from, after: to, gain }) => (
          <div class="tile" key={name}>
            <span>held-out {title}</span>
            <strong>{number(to ?? from)}</strong>
            <small class={gain > 0 ? "good" : gain < 0 ? "bad" : ""}>
              {to === undefined || from === undefined
                ? "before training"
                : `${gain > 0 ? "✓ " : gain < 0 ? "✕ " : ""}${signed(to - from)} from ${number(from)}`}
            </small>
          </div>
        ))}
      </div>
      {after?.samples?.length ? <Samples before={before?.samples ?? []} after={after.samples} /> : null}
    </section>
  );
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
              <div>{sample.prompt}</div>
            </td>
            {[before[index], sample].map((answer, column) => (
              <td key={column} class="text">
                <div>
                  <b>{number(answer?.reward)}</b> {answer?.response.trim()}
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
