// Data files: upload, state, size.
import { useLocation } from "preact-iso";
import { useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, remove, upload } from "../api";
import { Bar, Empty, Failure, Loading, Status, Time, useTitle } from "../components/Basics";
import { Confirm } from "../components/Dialogs";
import { Cell, Column, Rows } from "../components/Rows";
import { bytes, percent } from "../format";
import { useGet } from "../live";
import { useCan } from "../session";
import type { FileObject, Page } from "../types";

const ROW = 48;
const WAIT_MS = 700;

/** Asks again while a file waits for its validation, which takes seconds and has no stream. */
export function useUntilValidated(waiting: boolean, reload: () => void, version: unknown): void {
  useEffect(() => {
    if (!waiting) return;
    const timer = setTimeout(reload, WAIT_MS);
    return () => clearTimeout(timer);
  }, [waiting, version]);
}

export function Files() {
  const { value, error, reload } = useGet<Page<FileObject>>("/v1/files");
  const [doomed, setDoomed] = useState<FileObject>();
  const [failed, setFailed] = useState<ApiError>();
  const writes = useCan("files:write");
  useTitle("Files");
  const files = value?.data ?? [];
  useUntilValidated(files.some((file) => file.status === "uploaded"), reload, value);
  if (error && !value) return <Failure error={error} retry={reload} />;
  if (!value) return <Loading what="the files" />;
  return (
    <>
      <div class="title">
        <h1>Files</h1>
      </div>
      {writes && <Upload />}
      {failed && <Failure error={failed} />}
      {!files.length ? (
        <Empty title="No files yet">
          <p>
            A data file has one JSON object a line, as OpenAI's: <code>{'{"messages": [{"role": "user", "content": "…"}, …]}'}</code>.
            Add <code>teacher_responses</code> for a teacher's answers, and any field that your grader reads.
          </p>
        </Empty>
      ) : (
        <Rows
          items={files}
          height={ROW}
          label="Files"
          rowClass={() => "file"}
          columns={
            <>
              <Column>File</Column>
              <Column>State</Column>
              <Column>What it holds</Column>
              <Column>Size</Column>
              <Column>Age</Column>
              <Column>
                <span class="hidden">Delete</span>
              </Column>
            </>
          }
          render={(file) => (
            <>
              <Cell name="cut">
                <a href={`/ui/files/${file.id}`}>{file.filename}</a>
              </Cell>
              <Cell>
                <Status value={file.status} />
              </Cell>
              <Cell name="cut">{file.status_details ?? file.purpose}</Cell>
              <Cell>{bytes(file.bytes)}</Cell>
              <Cell>
                <Time at={file.created_at} />
              </Cell>
              <Cell>
                {writes && (
                  <button type="button" class="small" aria-label={`Delete ${file.filename}`} onClick={() => setDoomed(file)}>
                    Delete
                  </button>
                )}
              </Cell>
            </>
          )}
        />
      )}
      {doomed && (
        <Confirm
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
          Uploading {percent(share)} <Bar share={share} label={`Uploaded ${percent(share)}`} />
        </span>
      )}
      {error && <Failure error={error} />}
    </div>
  );
}

/** The beginning of a file, as far as `limit` bytes. */
export async function beginning(id: string, limit: number): Promise<string> {
  const answer = await fetch(`/v1/files/${id}/content`);
  const reader = answer.body?.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let size = 0;
  while (reader && size < limit) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    size += value.length;
    text += decoder.decode(value, { stream: true });
  }
  await reader?.cancel();
  return text;
}

