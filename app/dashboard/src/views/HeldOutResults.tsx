// Results on held-out rows before and after training.
import { DataTable } from "../components/DataTable";
import { number, signed } from "../format";

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
      {before?.samples && after?.samples && <Samples before={before.samples} after={after.samples} />}
    </section>
  );
}

function Samples({ before, after }: { before: Sample[]; after: Sample[] }) {
  return (
    <details>
      <summary>Held-out samples before and after</summary>
      <DataTable label="Answers before and after" columns={["Question", "Before", "After"]}>
        {after.map((sample, index) => (
          <tr key={index}>
            <td class="text">{sample.prompt}</td>
            <td class="text">
              <b>{number(before[index]?.reward)}</b> {before[index]?.response}
            </td>
            <td class="text">
              <b>{number(sample.reward)}</b> {sample.response}
            </td>
          </tr>
        ))}
      </DataTable>
    </details>
  );
}
