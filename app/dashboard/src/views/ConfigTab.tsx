// The settings of a job next to the defaults, and code that creates the same job again.
import { useMemo, useState } from "preact/hooks";
import { DataTable } from "../components/DataTable";
import { CodeBlock, Loading } from "../components/primitives";
import { percent } from "../format";
import { flatten, requestFromJob, requestSnippets, schemaDefaults } from "../jobSettings";
import { useGet } from "../liveData";
import { ROOT } from "../root";
import type { Job } from "../types";
import { RowsUsed } from "./RowUse";

const SCHEMAS: Record<string, string> = {
  gft: "GroupMethod",
  reinforcement: "Reinforcement",
  supervised: "ImitationMethod",
  dft: "ImitationMethod",
  dpo: "PreferenceMethod",
};
const FORMS = [
  ["cli", "Command line"],
  ["python", "Python"],
  ["curl", "curl"],
] as const;

export function ConfigTab({ job }: { job: Job }) {
  const [form, setForm] = useState<"cli" | "python" | "curl">("cli");
  const document = useGet<{ components: { schemas: Parameters<typeof schemaDefaults>[0] } }>("/openapi.json");
  const type = String((job.method as { type: string }).type);
  const rows = useMemo(() => {
    const byDefault = document.value
      ? flatten(schemaDefaults(document.value.components.schemas, SCHEMAS[type] ?? ""))
      : {};
    const { grader, ...method } = (job.method as Record<string, Record<string, unknown>>)[type] ?? {};
    const used = job.hyperparameters as Record<string, unknown>;
    const own = Object.entries({ ...(grader ? { grader: JSON.stringify(grader, null, 2) } : {}), ...flatten(method) });
    return own.map(([path, value]) => {
      const resolved = used[path.replace("hyperparameters.", "")];
      const isAuto = value === "auto" && resolved !== undefined && resolved !== "auto";
      return {
        path,
        value: isAuto ? `auto: ${resolved}` : value,
        byDefault: byDefault[path],
        differs: byDefault[path] !== value,
      };
    });
  }, [job, document.value]);
  const others = Object.entries(
    flatten({
      seed: job.seed,
      alias: job.alias ?? undefined,
      gpus: job.resources.gpus === "auto" ? undefined : job.resources.gpus,
      workers: job.resources.nodes === 1 ? undefined : job.resources.nodes,
      ...(job.metadata ? { metadata: job.metadata } : {}),
    }),
  );
  const text = requestSnippets(requestFromJob(job), location.origin + ROOT)[form];
  return (
    <div class="halves">
      <section>
        <h2>Settings</h2>
        <p class="soft">
          Training file <a href={`/ui/files/${job.training_file}`}>{job.training_file}</a>
          {job.validation_file && (
            <>
              , held-out file <a href={`/ui/files/${job.validation_file}`}>{job.validation_file}</a>
            </>
          )}
          {job.test_file && (
            <>
              , test file <a href={`/ui/files/${job.test_file}`}>{job.test_file}</a>
            </>
          )}
          {others.filter(([, value]) => value).map(([name, value]) => `, ${name} ${value}`)}.
        </p>
        <RowsUsed of={job} />
        {job.demonstrations && <Grades of={job.demonstrations} />}
        {job.training_path?.lora_coverage != null && <AdapterCoverage path={job.training_path} />}
        {job.training_path?.name === "plain" && (
          <p class="notice hold" role="status">
            ⚠ <b>Plain path:</b> {job.training_path.reason}. Training is correct but slower.
          </p>
        )}
        {!document.value && <Loading what="the defaults" />}
        {document.value && (
          <>
            <Settings title="Changed" rows={rows.filter((row) => row.differs)} />
            <Settings title="Default" rows={rows.filter((row) => !row.differs)} />
          </>
        )}
      </section>
      <section>
        <h2>Create the same job again</h2>
        <div class="row" role="group" aria-label="Format">
          {FORMS.map(([name, title]) => (
            <button key={name} type="button" aria-pressed={form === name} onClick={() => setForm(name)}>
              {title}
            </button>
          ))}
        </div>
        <CodeBlock text={text} title={FORMS.find(([name]) => name === form)?.[1] ?? ""} />
      </section>
    </div>
  );
}

interface Setting {
  path: string;
  value: string;
  byDefault: string | undefined;
}

/** The grades of a job that trains only the demonstrations that pass. */
function Grades({ of: { total, passed, failed, errors } }: { of: NonNullable<Job["demonstrations"]> }) {
  const others = [failed && `${failed} failed`, errors && `${errors} could not be graded`].filter(Boolean);
  return (
    <p class="notice" role="status">
      <b>Demonstrations:</b> {passed} of {total} pass the grader and are trained{others.length > 0 && "; "}
      {others.join(", ")}.
    </p>
  );
}

function AdapterCoverage({ path }: { path: NonNullable<Job["training_path"]> }) {
  return (
    <p class="soft">
      The adapter covers {percent(path.lora_coverage)} of the base model's weights
      {path.expert_lora_coverage != null && `, and ${percent(path.expert_lora_coverage)} of its experts' weights`}.
    </p>
  );
}

function Settings({ title, rows }: { title: string; rows: Setting[] }) {
  if (!rows.length) return null;
  const differ = title !== "Default";
  return (
    <DataTable
      label={`${title} settings`}
      kind="settings"
      columns={differ ? [title, "Value", "Default"] : [title, "Value"]}
    >
      {rows.map(({ path, value, byDefault }) => (
        <tr key={path} class={differ ? "changed" : ""}>
          <td>{path}</td>
          <td class={path === "grader" ? "text code-cell" : "text"}>{value}</td>
          {differ && <td class="soft">{byDefault ?? "–"}</td>}
        </tr>
      ))}
    </DataTable>
  );
}
