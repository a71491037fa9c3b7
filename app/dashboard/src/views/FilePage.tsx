// One file: what is wrong with it, line by line, and what its rows look like.
import { useRoute } from "preact-iso";
import { useEffect, useState } from "preact/hooks";
import { Chip, Copy, Failure, Loading, Status, Time, useTitle } from "../components/Basics";
import { bytes, plural } from "../format";
import { useGet } from "../live";
import type { FileObject, FileReport, Finding } from "../types";
import { beginning, useUntilValidated } from "./Files";

const READ_BYTES = 2_000_000;
const SHOWN_ROWS = 20;

interface Report {
  valid: boolean;
  rows: number;
  errors: Finding[];
  error_count: number;
  warnings: Finding[];
  warning_count: number;
  expert_rows: number;
  teacher_rows: number;
  prompt_only_rows: number;
  item_fields: Record<string, number>;
}

export function FilePage() {
  const { params } = useRoute();
  const id = params.id ?? "";
  const file = useGet<FileObject>(`/v1/files/${id}`);
  const report = useGet<FileReport>(`/v1/files/${id}/report`, file.value?.status);
  const [lines, setLines] = useState<string[]>();
  useTitle(file.value?.filename ?? "File");
  useUntilValidated(file.value?.status === "uploaded", file.reload, file.value);
  useEffect(() => {
    let current = true;
    beginning(id, READ_BYTES).then(
      (text) => current && setLines(text.split("\n")),
      () => current && setLines([]),
    );
    return () => {
      current = false;
    };
  }, [id]);
  if (file.error) return <Failure error={file.error} retry={file.reload} />;
  if (!file.value) return <Loading what="the file" />;
  const found = report.value?.report as Report | null | undefined;
  return (
    <>
      <div class="title">
        <div>
          <p class="soft crumbs">
            <a href="/ui/files">Files</a> / {id} <Copy text={id} label="Copy id" />
          </p>
          <h1>{file.value.filename}</h1>
        </div>
        <div class="row">
          <a class="button" href={`/v1/files/${id}/content`} download={file.value.filename}>
            Download
          </a>
          {file.value.status === "processed" && (
            <a class="button primary" href={`/ui/new?training_file=${id}`}>
              Train on it
            </a>
          )}
        </div>
      </div>
      <div class="facts">
        <Status value={file.value.status} />
        <span>{bytes(file.value.bytes)}</span>
        <span>
          uploaded <Time at={file.value.created_at} />
        </span>
      </div>
      {found ? <Findings report={found} lines={lines ?? []} /> : file.value.status === "uploaded" && <Loading what="the report" />}
      {lines && <Preview lines={lines} />}
    </>
  );
}

function Findings({ report, lines }: { report: Report; lines: string[] }) {
  const kinds: [string, number][] = [
    ["with a demonstration", report.expert_rows],
    ["with a teacher's answers", report.teacher_rows],
    ["with a prompt alone", report.prompt_only_rows],
  ];
  return (
    <section aria-label="Report">
      <div class="tiles">
        <div class="tile">
          <span>usable rows</span>
          <strong>{report.rows.toLocaleString("en-US")}</strong>
        </div>
        {kinds.map(([text, count]) => (
          <div class="tile" key={text}>
            <span>{text}</span>
            <strong>{count.toLocaleString("en-US")}</strong>
          </div>
        ))}
      </div>
      {Object.keys(report.item_fields).length > 0 && (
        <p>
          Your grader can read{" "}
          {Object.entries(report.item_fields).map(([name, count]) => (
            <>
              <code key={name} title={plural(count, "row")}>{`{{item.${name}}}`}</code>{" "}
            </>
          ))}
        </p>
      )}
      <List title={plural(report.error_count, "error")} hint="Mend these lines in your file and upload it again." kind="bad" findings={report.errors} count={report.error_count} lines={lines} />
      <List title={plural(report.warning_count, "warning")} hint="Training works all the same." kind="hold" findings={report.warnings} count={report.warning_count} lines={lines} />
    </section>
  );
}

function List(props: { title: string; hint: string; kind: string; findings: Finding[]; count: number; lines: string[] }) {
  if (!props.count) return null;
  return (
    <section class={`findings ${props.kind}`}>
      <h2>{props.title}</h2>
      <p>{props.hint}</p>
      <ol>
        {props.findings.map((one, index) => (
          <li key={index}>
            <p>
              <b>Line {one.line}</b>
              {one.param && (
                <>
                  , <code>{one.param}</code>
                </>
              )}
              : {one.message}
            </p>
            {props.lines[one.line - 1] !== undefined && (
              <pre tabIndex={0} role="region" aria-label={`Line ${one.line}`}>
                {(props.lines[one.line - 1] ?? "").slice(0, 600)}
              </pre>
            )}
          </li>
        ))}
      </ol>
      {props.count > props.findings.length && <p>And {plural(props.count - props.findings.length, "more")}.</p>}
    </section>
  );
}

interface Message {
  role: string;
  content: unknown;
}

function parsed(line: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(line);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

function Preview({ lines }: { lines: string[] }) {
  const [shown, setShown] = useState(SHOWN_ROWS);
  const rows = lines
    .map((line, index) => ({ number: index + 1, row: parsed(line) }))
    .filter((one): one is { number: number; row: Record<string, unknown> } => one.row !== null);
  if (!rows.length) return null;
  return (
    <section aria-label="Rows">
      <h2>Rows</h2>
      {rows.slice(0, shown).map(({ number, row }) => (
        <RowCard key={number} line={number} row={row} />
      ))}
      {rows.length > shown && (
        <button type="button" onClick={() => setShown(shown + SHOWN_ROWS)}>
          Show more rows
        </button>
      )}
    </section>
  );
}

const asText = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

function RowCard({ line, row }: { line: number; row: Record<string, unknown> }) {
  const { messages, prompt, completion, teacher_responses: teacher, ...rest } = row;
  const talk: Message[] = Array.isArray(messages)
    ? (messages as Message[])
    : [
        { role: "user", content: prompt ?? "" },
        ...(completion === undefined ? [] : [{ role: "assistant", content: completion }]),
      ];
  const last = talk.at(-1)?.role === "assistant" ? talk.length - 1 : -1;
  return (
    <article class="talk" aria-label={`Row of line ${line}`}>
      <span class="soft">Line {line}</span>
      {talk.map((message, index) => (
        <div key={index} class={`turn ${index === last ? "trained" : ""}`}>
          {index === last ? <Chip source="expert" /> : <span class="chip">{String(message?.role)}</span>}
          <span>{asText(message?.content)}</span>
        </div>
      ))}
      {Array.isArray(teacher) &&
        teacher.map((one, index) => (
          <div key={`teacher-${index}`} class="turn trained">
            <Chip source="teacher" />
            <span>{asText(one)}</span>
          </div>
        ))}
      {Object.keys(rest).length > 0 && (
        <div class="turn">
          <span class="chip">item</span>
          <span>
            {Object.entries(rest).map(([key, value]) => (
              <span key={key}>
                <code>{key}</code> {asText(value)}{" "}
              </span>
            ))}
          </span>
        </div>
      )}
    </article>
  );
}
