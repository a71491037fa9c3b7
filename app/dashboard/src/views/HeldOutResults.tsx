// What a job's model could do on rows that it never saw, before and after training.
import { number, signed } from "../format";
import type { Job } from "../types";

type Result = Record<string, unknown> & { step?: number; samples?: Sample[] };
interface Sample {
  prompt: string;
  response: string;
  reward: number | null;
  reference?: string | null;
}

/** What is shown of an evaluation, in this order; `less` says that less is better. */
const RESULTS: { name: RegExp; title: string; less?: boolean; isNeutral?: boolean }[] = [
  { name: /^eval\/reward$/, title: "reward" },
  { name: /^eval\/accuracy$/, title: "accuracy" },
  { name: /^eval\/pass@/, title: "" },
  { name: /^eval\/loss$/, title: "loss", less: true },
  { name: /^eval\/forward_kl$/, title: "KL from its base", isNeutral: true },
  { name: /^eval\/entropy$/, title: "entropy", isNeutral: true },
];

export interface HeldOutResult {
  name: string;
  title: string;
  before: number | undefined;
  after: number | undefined;
  /** Above 0 for the better. */
  gain: number;
}

/** A job's held-out results before and after training. */
export function heldOutResults(job: Job): HeldOutResult[] {
  const { before, after } = (job.evaluation ?? {}) as { before?: Result; after?: Result };
  const flat = (result: Result | undefined): Record<string, unknown> =>
    (result?.values ?? result ?? {}) as Record<string, unknown>;
  const [old, fresh] = [flat(before), flat(after)];
  const value = (found: unknown): number | undefined => (typeof found === "number" ? found : undefined);
  return RESULTS.flatMap(({ name, title, less, isNeutral }) =>
    [...new Set([...Object.keys(old), ...Object.keys(fresh)])]
      .filter((one) => name.test(one))
      .map((one) => {
        const [from, to] = [value(old[one]), value(fresh[one])];
        const change = from === undefined || to === undefined || isNeutral ? 0 : (to - from) * (less ? -1 : 1);
        return {
          name: one,
          title: title || one.replace("eval/", ""),
          before: from,
          after: to,
          gain: Math.abs(change) < 1e-9 ? 0 : change,
        };
      }),
  );
}

export function HeldOutResults({ job }: { job: Job }) {
  const { before, after } = (job.evaluation ?? {}) as { before?: Result; after?: Result };
  const results = heldOutResults(job);
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
      <summary>The same held-out questions, before and after</summary>
      <div class="scroll" tabIndex={0} role="region" aria-label="Answers before and after">
        <table>
          <thead>
            <tr>
              <th>Question</th>
              <th>Before</th>
              <th>After</th>
            </tr>
          </thead>
          <tbody>
            {after.map((one, index) => (
              <tr key={index}>
                <td class="text">{one.prompt}</td>
                <td class="text">
                  <b>{number(before[index]?.reward)}</b> {before[index]?.response}
                </td>
                <td class="text">
                  <b>{number(one.reward)}</b> {one.response}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}
