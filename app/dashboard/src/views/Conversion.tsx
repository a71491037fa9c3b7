// Converts a file of another format: shows its first rows as they would be, then makes a new file of them.

import { useState } from "preact/hooks";
import { useLocation } from "preact-iso";
import { type ApiError, post } from "../api";
import { TextField } from "../components/FormFields";
import { ErrorNotice } from "../components/primitives";
import { RowCard } from "../components/RowCard";
import type { Row } from "../dataFile";
import type { ConvertedRows, FileObject } from "../types";

const ROWS = 3;
const FIELDS: Record<string, string> = {
  prompt: "the prompt",
  completion: "the answer",
  system: "the system message",
};

interface Props {
  id: string;
  /** Fields of a row and the columns to take them from; empty if the server finds them. */
  map: Record<string, string>;
}

export function Conversion({ id, map }: Props) {
  const [preview, setPreview] = useState<ConvertedRows>();
  const [error, setError] = useState<ApiError>();
  const [busy, setBusy] = useState(false);
  const [columns, setColumns] = useState({ prompt: "", completion: "" });
  const { route } = useLocation();
  const named = Object.fromEntries(Object.entries(columns).filter(([, column]) => column.trim()));
  const body = { map: Object.keys(named).length ? named : map, limit: ROWS };
  const mapped = Object.entries(body.map);
  const name = (field: string) => (column: string) => {
    setPreview(undefined);
    setColumns((old) => ({ ...old, [field]: column }));
  };
  const start = () => {
    setBusy(true);
    setError(undefined);
  };
  const show = () => {
    start();
    post<ConvertedRows>(`/v1/files/${id}/convert/preview`, body)
      .then(setPreview, setError)
      .finally(() => setBusy(false));
  };
  const convert = () => {
    start();
    post<FileObject>(`/v1/files/${id}/convert`, body)
      .then((made) => route(`/ui/files/${made.id}`), setError)
      .finally(() => setBusy(false));
  };
  return (
    <section class="panel conversion" aria-label="Conversion">
      <h2>Convert this file</h2>
      <p>
        {mapped.length > 0 ? (
          <>
            Uses{" "}
            {mapped.map(([field, column], index) => (
              <>
                {index > 0 && " and "}
                <code key={field}>{column}</code> as {FIELDS[field] ?? field}
              </>
            ))}
            . The converted rows become a new file.
          </>
        ) : (
          "The converted rows become a new file. This one stays as it is."
        )}
      </p>
      <details>
        <summary>Name the columns</summary>
        <div class="row wrap">
          <TextField
            label="Prompt"
            value={columns.prompt}
            placeholder="found by name"
            set={name("prompt")}
            kind="text"
          />
          <TextField
            label="Answer (leave empty for prompts only)"
            value={columns.completion}
            placeholder="found by name"
            set={name("completion")}
            kind="text"
          />
        </div>
      </details>
      {preview && (
        <>
          <h3>
            The first rows of <code>{preview.filename}</code>
          </h3>
          {preview.data.map((row, index) => (
            <RowCard key={index} line={index + 1} row={row as Row} label={`Row ${index + 1}`} />
          ))}
        </>
      )}
      {error && <ErrorNotice error={error} />}
      <p>
        {preview ? (
          <button type="button" class="primary" disabled={busy} onClick={convert}>
            {busy ? "Converting …" : "Use the converted rows"}
          </button>
        ) : (
          <button type="button" class="primary" disabled={busy} onClick={show}>
            {busy ? "Converting the first rows …" : "Convert"}
          </button>
        )}
      </p>
    </section>
  );
}
