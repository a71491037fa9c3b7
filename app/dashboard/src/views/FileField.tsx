// Chooses a validated file, or uploads one and chooses it as soon as it is valid.

import { useState } from "preact/hooks";
import { type ApiError, get } from "../api";
import { Field } from "../components/FormFields";
import { ErrorNotice } from "../components/primitives";
import { percent } from "../format";
import { useFileValidation } from "../liveData";
import { useCan } from "../session";
import type { FileObject } from "../types";
import { type Purpose, upload } from "../uploads";
import { ACCEPTED } from "./Files";

export function FileField(props: {
  label: string;
  id: string;
  files: FileObject[];
  value: string;
  set: (id: string) => void;
  /** Requests the list of files again. */
  reload: () => void;
  none?: string;
  /** Path of the file's id in the request. */
  path: string;
  /** Purpose of files that are uploaded here; jobs need `fine-tune`, the default. */
  purpose?: Purpose;
}) {
  const writes = useCan("files:write");
  return (
    <Field label={props.label} id={props.id} path={props.path}>
      {(described) => (
        <>
          <select
            id={props.id}
            value={props.value}
            onChange={(event) => props.set(event.currentTarget.value)}
            {...described}
          >
            {(props.none || !props.files.length) && <option value="">{props.none ?? "no validated file"}</option>}
            {props.files.map((file) => (
              <option key={file.id} value={file.id}>
                {file.filename} ({file.status_details ?? file.id})
              </option>
            ))}
          </select>
          {writes && (
            <UploadHere id={props.id} set={props.set} reload={props.reload} purpose={props.purpose ?? "fine-tune"} />
          )}
        </>
      )}
    </Field>
  );
}

function UploadHere(props: { id: string; set: (id: string) => void; reload: () => void; purpose: Purpose }) {
  const [share, setShare] = useState<number>();
  const [error, setError] = useState<ApiError>();
  const [file, setFile] = useState<FileObject>();
  const [stored, setStored] = useState<string>();
  const settle = (id: string) =>
    get<FileObject>(`/v1/files/${id}`).then((validated) => {
      const isValid = validated.status === "processed";
      setFile(isValid ? undefined : validated);
      if (!isValid) return;
      props.reload();
      props.set(id);
    }, setError);
  useFileValidation(file?.status === "uploaded" ? [file.id] : [], () => file && void settle(file.id));
  const send = (chosen: File | undefined) => {
    if (!chosen) return;
    setError(undefined);
    setStored(undefined);
    setShare(0);
    upload(chosen, setShare, props.purpose)
      .then(({ file: found, isStored }) => {
        if (isStored) setStored(`${chosen.name} is already uploaded as ${found.filename}, which is used.`);
        if (found.status === "uploaded") setFile(found);
        else void settle(found.id);
      }, setError)
      .finally(() => setShare(undefined));
  };
  const input = `${props.id}-upload`;
  return (
    <div>
      <label class="button small" for={input}>
        Upload a file
      </label>
      <input
        id={input}
        class="hidden"
        type="file"
        accept={props.purpose === "evals" ? ".jsonl,application/jsonl" : ACCEPTED}
        aria-label={`Upload a file for ${props.id}`}
        onChange={(event) => send(event.currentTarget.files?.[0])}
      />{" "}
      <span class="soft">{props.purpose === "evals" ? "JSONL" : "JSONL or Parquet"}</span>{" "}
      {stored && <span role="status">{stored}</span>}
      {share !== undefined && <span role="status">Uploading {percent(share)}</span>}
      {file?.status === "uploaded" && <span role="status">Validating {file.filename} …</span>}
      {file?.status === "error" && (
        <p class="problem" role="alert">
          {file.filename} has errors. <a href={`/ui/files/${file.id}`}>Fix or convert it</a>, then choose it here.
        </p>
      )}
      {error && <ErrorNotice error={error} />}
    </div>
  );
}
