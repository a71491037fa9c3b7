// Data files: upload, state, size.

import { useRef, useState } from "preact/hooks";
import { useLocation } from "preact-iso";
import { type ApiError, remove, upload } from "../api";
import { ConfirmDialog } from "../components/Dialogs";
import { EmptyState, ErrorNotice, Loading, Meter, RelativeTime, StatusBadge, useTitle } from "../components/primitives";
import { Cell, ColumnHeader, VirtualTable } from "../components/VirtualTable";
import { bytes, percent } from "../format";
import { useFileValidation, useGet } from "../liveData";
import { useCan } from "../session";
import type { FileObject, Page } from "../types";

const ROW = 48;

export function Files() {
  const { query: asked } = useLocation();
  const isResults = asked.show === "results";
  const { value, error, reload } = useGet<Page<FileObject>>(
    `/v1/files?purpose=${isResults ? "fine-tune-results" : "fine-tune"}`,
  );
  const [doomed, setDoomed] = useState<FileObject>();
  const [failed, setFailed] = useState<ApiError>();
  const writes = useCan("files:write");
  useTitle("Files");
  const files = value?.data ?? [];
  useFileValidation(
    files.filter((file) => file.status === "uploaded").map((file) => file.id),
    reload,
  );
  if (error && !value) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the files" />;
  return (
    <>
      <div class="title">
        <h1>Files</h1>
      </div>
      <nav class="tabs" aria-label="Kinds of files">
        <a href="/ui/files" aria-current={isResults ? undefined : "page"}>
          Data
        </a>
        <a href="/ui/files?show=results" aria-current={isResults ? "page" : undefined}>
          Results of jobs
        </a>
      </nav>
      {writes && !isResults && <Upload />}
      {failed && <ErrorNotice error={failed} />}
      {!files.length && isResults ? (
        <EmptyState title="No results yet">
          <p>A job that succeeds writes its metrics, step by step, into a CSV file here.</p>
        </EmptyState>
      ) : !files.length ? (
        <EmptyState title="No files yet">
          <p>
            A data file has one JSON object a line, as OpenAI's:{" "}
            <code>{'{"messages": [{"role": "user", "content": "…"}, …]}'}</code>. Add <code>teacher_responses</code> for
            a teacher's answers, and any field that your grader reads.
          </p>
        </EmptyState>
      ) : (
        <VirtualTable
          items={files}
          height={ROW}
          label="Files"
          rowClass={() => "file"}
          columns={
            <>
              <ColumnHeader>File</ColumnHeader>
              <ColumnHeader>State</ColumnHeader>
              <ColumnHeader>What it holds</ColumnHeader>
              <ColumnHeader>Size</ColumnHeader>
              <ColumnHeader>Age</ColumnHeader>
              <ColumnHeader>
                <span class="hidden">Delete</span>
              </ColumnHeader>
            </>
          }
          render={(file) => (
            <>
              <Cell name="cut">
                <a href={`/ui/files/${file.id}`}>{file.filename}</a>
              </Cell>
              <Cell>
                <StatusBadge value={file.status} />
              </Cell>
              <Cell name="cut wide">{file.status_details ?? (isResults ? "metrics by step, as CSV" : "")}</Cell>
              <Cell>{bytes(file.bytes)}</Cell>
              <Cell>
                <RelativeTime at={file.created_at} />
              </Cell>
              <Cell>
                {writes && (
                  <button
                    type="button"
                    class="small"
                    aria-label={`Delete ${file.filename}`}
                    onClick={() => setDoomed(file)}
                  >
                    Delete
                  </button>
                )}
              </Cell>
            </>
          )}
        />
      )}
      {doomed && (
        <ConfirmDialog
          title={`Delete ${doomed.filename}?`}
          text="Finished jobs keep what they learnt from it; they cannot be run again on it."
          action="Delete the file"
          act={() => void remove(`/v1/files/${doomed.id}`).then(reload, setFailed)}
          close={() => setDoomed(undefined)}
        />
      )}
    </>
  );
}

function Upload() {
  const [share, setShare] = useState<number>();
  const [error, setError] = useState<ApiError>();
  const [over, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const { route } = useLocation();
  const send = (file: File | undefined) => {
    if (!file) return;
    setError(undefined);
    setShare(0);
    upload<FileObject>(file, setShare)
      .then((made) => route(`/ui/files/${made.id}`), setError)
      .finally(() => setShare(undefined));
  };
  return (
    <div
      class={`drop ${over ? "over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        send(event.dataTransfer?.files[0]);
      }}
    >
      {share === undefined ? (
        <>
          <label class="button primary" for="upload">
            Choose a JSONL file
          </label>
          <input
            ref={input}
            id="upload"
            class="hidden"
            type="file"
            accept=".jsonl,.json,application/jsonl"
            onChange={(event) => send(event.currentTarget.files?.[0])}
          />
          <span class="soft">or drop it here. Every line is checked.</span>
        </>
      ) : (
        <span role="status">
          Uploading {percent(share)} <Meter share={share} label={`Uploaded ${percent(share)}`} />
        </span>
      )}
      {error && <ErrorNotice error={error} />}
    </div>
  );
}
