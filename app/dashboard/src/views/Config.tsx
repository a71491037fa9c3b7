import { useMemo, useState } from "preact/hooks";
import { Code } from "../components/Basics";
import { useGet } from "../live";
import { chosen, defaults, flatten, snippets } from "../settings";
import type { Job } from "../types";

const SCHEMAS: Record<string, string> = { gft: "GroupMethod", reinforcement: "Reinforcement", supervised: "ImitationMethod", dft: "ImitationMethod" };
const FORMS = [
  ["cli", "Command line"],
  ["python", "Python"],
  ["curl", "curl"],
] as const;

export function Config({ job }: { job: Job }) {
  const [form, setForm] = useState<"cli" | "python" | "curl">("cli");
  const document = useGet<{ components: { schemas: Parameters<typeof defaults>[0] } }>("/openapi.json");
  const type = String((job.method as { type: string }).type);
  const rows = useMemo(() => {
    const usual = document.value ? flatten(defaults(document.value.components.schemas, SCHEMAS[type] ?? "")) : {};
    const method = (job.method as Record<string, unknown>)[type];
    const own = { ...flatten(method), ...Object.fromEntries(Object.entries(flatten(job.hyperparameters)).map(([key, value]) => [`${key} (in use)`, value])) };
    return Object.entries(own).map(([path, value]) => ({ path, value, usual: usual[path] }));
  }, [job, document.value]);
  const text = snippets(chosen(job), location.origin)[form];
  return (
    <div class="halves">
      <section>
        <h2>Settings</h2>
        <p class="soft">
          What differs from the defaults is marked. Seed {job.seed}; training file{" "}
          <a href={`/ui/files/${job.training_file}`}>{job.training_file}</a>
          {job.validation_file && (
            <>
              , held out <a href={`/ui/files/${job.validation_file}`}>{job.validation_file}</a>
            </>
          )}
          .
        </p>
        <table class="settings">
          <thead>
            <tr>
              <th>Setting</th>
              <th>Value</th>
              <th>Default</th>
            </tr>
          </thead>
          <tbody>
            {rows.map(({ path, value, usual }) => {
              const differs = document.value !== undefined && usual !== value && !path.endsWith("(in use)");
              return (
                <tr key={path} class={differs ? "changed" : ""}>
                  <td>
                    {differs && <span title="Not the default">● </span>}
                    {path}
                  </td>
                  <td class="text">{value}</td>
                  <td class="soft">{usual ?? "–"}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </section>
      <section>
        <h2>The same again</h2>
        <div class="row" role="group" aria-label="As">
          {FORMS.map(([name, title]) => (
            <button key={name} type="button" aria-pressed={form === name} onClick={() => setForm(name)}>
              {title}
            </button>
          ))}
        </div>
        <Code text={text} title={FORMS.find(([name]) => name === form)?.[1] ?? ""} />
      </section>
    </div>
  );
}
