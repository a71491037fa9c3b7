// The project's data files and the result files of jobs.

import { useRef, useState } from "preact/hooks";
import { type ApiError, remove } from "../api";
import { ConfirmDialog } from "../components/Dialogs";
import { EmptyState, ErrorNotice, Loading, Meter, RelativeTime, useTitle } from "../components/primitives";
import { Cell, ColumnHeader, VirtualTable } from "../components/VirtualTable";
import { bytes, percent } from "../format";
import { useFileValidation, useGet } from "../liveData";
import { useLocation } from "../root";
import { useCan } from "../session";
import type { FileObject, Page } from "../types";
import { upload } from "../uploads";
import { FileBadge } from "./FileState";

const ROW = 48;
/** Files that the server validates or converts. */
export const ACCEPTED = ".jsonl,.json,.parquet,.csv,.tsv,.gz,.bz2,.xz,.zip,application/jsonl";
const NARROW_ROW = 72;

export function Files() {
  const { query: params } = useLocation();
  const isResults = params.show === "results";
  const { value, error, reload } = useGet<Page<FileObject>>(
    `/v1/files?purpose=${isResults ? "fine-tune-results" : "fine-tune"}`,
  );
  const [toDelete, setToDelete] = useState<FileObject>();
  const [failed, setFailed] = useState<ApiError>();
  const writes = useCan("files:write");
  useTitle("Files");
  const files = value?.data ?? [];
  const earlier = earlierCopies(files);
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
      <nav class="tabs" aria-label="Kind of file">
        <a href="/ui/files" aria-current={isResults ? undefined : "page"}>
          Data
        </a>
        <a href="/ui/files?show=results" aria-current={isResults ? "page" : undefined}>
          Job results
        </a>
      </nav>
      {writes && !isResults && <Upload />}
      {failed && <ErrorNotice error={failed} />}
      {!files.length && isResults ? (
        <EmptyState title="No results yet">
          <p>When a job succeeds, a CSV file with its metrics by step appears here.</p>
        </EmptyState>
      ) : !files.length ? (
        <EmptyState title="No files yet">
          <p>
            Upload a JSONL file in OpenAI's format, with one JSON object per line, or a Parquet file with the same
            columns: <code>{'{"messages": [{"role": "user", "content": "…"}, …]}'}</code>. Add{" "}
            <code>teacher_responses</code> for teacher answers, and any fields that your grader reads.
          </p>
        </EmptyState>
      ) : (
        <VirtualTable
          items={files}
          height={ROW}
          narrowHeight={NARROW_ROW}
          label="Files"
          rowClass={() => "file"}
          columns={
            <>
              <ColumnHeader>File</ColumnHeader>
              <ColumnHeader>State</ColumnHeader>
              <ColumnHeader>Content</ColumnHeader>
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
                {earlier.has(file.id) && <small class="soft"> same content as {earlier.get(file.id)}</small>}
              </Cell>
              <Cell>
                <FileBadge file={file} />
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
                    onClick={() => setToDelete(file)}
                  >
                    Delete
                  </button>
                )}
              </Cell>
            </>
          )}
        />
      )}
      {toDelete && (
        <ConfirmDialog
          title={`Delete ${toDelete.filename}?`}
          text="Finished jobs keep their models, but cannot be run again on this file."
          action="Delete file"
          act={() => void remove(`/v1/files/${toDelete.id}`).then(reload, setFailed)}
          close={() => setToDelete(undefined)}
        />
      )}
    </>
  );
}

/** By id, the name of the oldest other file with the same content; the oldest itself has none. */
function earlierCopies(files: FileObject[]): Map<string, string> {
  const oldest = new Map(files.map((file) => [file.sha256, file]));
  const copies = files.filter((file) => oldest.get(file.sha256)?.id !== file.id);
  return new Map(
    copies.map((file) => {
      const name = oldest.get(file.sha256)?.filename ?? "";
      return [file.id, name === file.filename ? "an earlier upload" : name];
    }),
  );
}

function Upload() {
  const [share, setShare] = useState<number>();
  const [error, setError] = useState<ApiError>();
  const [over, setOver] = useState(false);
  const [stored, setStored] = useState<{ name: string; file: FileObject }>();
  const input = useRef<HTMLInputElement>(null);
  const { route } = useLocation();
  const send = (file: File | undefined) => {
    if (!file) return;
    setError(undefined);
    setStored(undefined);
    setShare(0);
    upload(file, setShare)
      .then((found) => {
        if (found.isStored) setStored({ name: file.name, file: found.file });
        else route(`/ui/files/${found.file.id}`);
      }, setError)
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
            Choose a file
          </label>
          <input
            ref={input}
            id="upload"
            class="hidden"
            type="file"
            accept={ACCEPTED}
            onChange={(event) => send(event.currentTarget.files?.[0])}
          />
          <span class="soft">
            or drop it here: JSONL or Parquet. CSV, JSON and rows of other tools can be converted. The server checks
            every line.
          </span>
        </>
      ) : (
        <span role="status">
          Uploading {percent(share)} <Meter share={share} label={`Uploaded ${percent(share)}`} />
        </span>
      )}
      {stored && (
        <p class="notice" role="status">
          {stored.name} is already uploaded as{" "}
          <a href={`/ui/files/${stored.file.id}`}>
            {stored.file.filename} ({stored.file.id})
          </a>
          , with the same content. It was not uploaded again.
        </p>
      )}
      {error && <ErrorNotice error={error} />}
    </div>
  );
}
