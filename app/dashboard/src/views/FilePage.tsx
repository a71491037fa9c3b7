// One file: its errors line by line, with an editor to fix them, and its rows.

import { useEffect, useState } from "preact/hooks";
import { useRoute } from "preact-iso";
import { CopyButton, ErrorNotice, Loading, RelativeTime, useTitle } from "../components/primitives";
import { RowCard } from "../components/RowCard";
import { type FileLines, parseRow, type Row, readLines } from "../dataFile";
import { bytes, plural } from "../format";
import { useFile, useGet } from "../liveData";
import { useCan } from "../session";
import type { FileReport, Finding } from "../types";
import { Conversion } from "./Conversion";
import { FileBadge, NoAnswers } from "./FileState";
import { FindingText, FixRows } from "./FixRows";
import { TokenizedRows } from "./TokenizedRows";

const READ_BYTES = 4_000_000;
const SHOWN_WARNINGS = 3;
const SHOWN_ROWS = 8;

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
  preference_rows?: number;
  item_fields: Record<string, number>;
  /** How the file can be converted: fields of a row and their columns; null if it cannot, or need not. */
  conversion?: Record<string, string> | null;
}

export function FilePage() {
  const { params } = useRoute();
  return <FileView key={params.id} id={params.id ?? ""} />;
}

function FileView({ id }: { id: string }) {
  const file = useFile(id);
  const isData = file.value?.purpose === "fine-tune";
  const report = useGet<FileReport>(isData ? `/v1/files/${id}/report` : null, file.value?.status);
  const [read, setRead] = useState<FileLines>();
  const writes = useCan("files:write");
  useTitle(file.value?.filename ?? "File");
  useEffect(() => {
    let current = true;
    readLines(id, READ_BYTES).then(
      (lines) => current && setRead(lines),
      () => current && setRead({ lines: [], isWhole: false }),
    );
    return () => {
      current = false;
    };
  }, [id]);
  if (file.error) return <ErrorNotice error={file.error} retry={file.reload} />;
  if (!file.value) return <Loading what="the file" />;
  const summary = report.value?.report as Report | null | undefined;
  return (
    <>
      <div class="title">
        <div>
          <p class="soft crumbs">
            <a href="/ui/files">Files</a> / {id} <CopyButton text={id} label="Copy id" />
          </p>
          <h1>{file.value.filename}</h1>
        </div>
        <div class="row">
          <a class="button" href={`/v1/files/${id}/content`} download={file.value.filename}>
            Download
          </a>
          {isData && file.value.status === "processed" && (
            <a class="button primary" href={`/ui/new?training_file=${id}`}>
              Train on this file
            </a>
          )}
        </div>
      </div>
      <div class="facts">
        <FileBadge file={file.value} />
        <span>{bytes(file.value.bytes)}</span>
        <span>
          uploaded <RelativeTime at={file.value.created_at} />
        </span>
      </div>
      {summary && summary.rows > 0 && <Counts report={summary} />}
      {file.value.has_answers === false && <NoAnswers />}
      {!summary && file.value.status === "uploaded" && <Loading what="the report while every line is checked" />}
      {summary && summary.error_count > 0 && (
        <FixRows
          findings={summary.errors}
          count={summary.error_count}
          read={read}
          writes={writes}
          filename={file.value.filename}
        />
      )}
      {summary?.conversion && writes && <Conversion id={id} map={summary.conversion} />}
      {summary && summary.warning_count > 0 && <Warnings report={summary} lines={read?.lines ?? []} />}
      {isData && file.value.status === "processed" && <TokenizedRows id={id} />}
      {read && isData && file.value.status === "error" && summary?.conversion == null && <Preview lines={read.lines} />}
      {read && !isData && <pre class="panel">{read.lines.slice(0, 200).join("\n")}</pre>}
    </>
  );
}

function Counts({ report }: { report: Report }) {
  const kinds: [string, number][] = [
    ["usable rows", report.rows],
    ["with a demonstration", report.expert_rows],
    ["with teacher answers", report.teacher_rows],
    ["with a prompt only", report.prompt_only_rows],
  ];
  if (report.preference_rows) kinds.push(["with a pair of answers", report.preference_rows]);
  const fields = Object.entries(report.item_fields).filter(([name]) => name !== "messages");
  return (
    <section aria-label="Report">
      <div class="tiles">
        {kinds.map(([text, count]) => (
          <div class="tile" key={text}>
            <span>{text}</span>
            <strong>{count.toLocaleString("en-US")}</strong>
          </div>
        ))}
      </div>
      {fields.length > 0 && (
        <p>
          Graders can read{" "}
          {fields.map(([name, count], index) => (
            <>
              {index > 0 && ", "}
              <code key={name}>{`{{item.${name}}}`}</code>
              {count < report.rows && ` in ${count} of ${plural(report.rows, "row")}`}
            </>
          ))}
        </p>
      )}
    </section>
  );
}

function Warnings({ report, lines }: { report: Report; lines: string[] }) {
  const item = (finding: Finding, index: number) => (
    <li key={index}>
      <p>
        <FindingText finding={finding} />
      </p>
      {finding.line !== null && lines[finding.line - 1] !== undefined && (
        <pre tabIndex={0} role="region" aria-label={`Line ${finding.line}`}>
          {(lines[finding.line - 1] ?? "").slice(0, 600)}
        </pre>
      )}
    </li>
  );
  return (
    <section class="findings">
      <h2>{plural(report.warning_count, "warning")}</h2>
      <p>Warnings do not prevent training.</p>
      <ol>{report.warnings.slice(0, SHOWN_WARNINGS).map(item)}</ol>
      {report.warnings.length > SHOWN_WARNINGS && (
        <details>
          <summary>{plural(report.warnings.length - SHOWN_WARNINGS, "more line")}</summary>
          <ol start={SHOWN_WARNINGS + 1}>{report.warnings.slice(SHOWN_WARNINGS).map(item)}</ol>
        </details>
      )}
      {report.warning_count > report.warnings.length && (
        <p>And {plural(report.warning_count - report.warnings.length, "more")}.</p>
      )}
    </section>
  );
}

function Preview({ lines }: { lines: string[] }) {
  const [shown, setShown] = useState(SHOWN_ROWS);
  const rows = lines
    .map((line, index) => ({ number: index + 1, row: parseRow(line) }))
    .filter((line): line is { number: number; row: Row } => line.row !== null);
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
