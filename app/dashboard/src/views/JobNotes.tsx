// Tags and note of a job, with a form to edit them and the name.

import { useState } from "preact/hooks";
import { type ApiError, get, JOBS, post } from "../api";
import { FormDialog } from "../components/Dialogs";
import { Field, TextField } from "../components/FormFields";
import { type Notes, tagsOf, withNotes } from "../jobNotes";
import { useCan } from "../session";
import type { Job } from "../types";

const MAX_LENGTH = 512;

export function JobNotes({ job, changed }: { job: Job; changed: (metadata: Job["metadata"]) => void }) {
  const writes = useCan("jobs:write");
  const [isOpen, setOpen] = useState(false);
  const note = job.metadata?.note;
  const tags = tagsOf(job);
  if (!writes && !note && !tags.length) return null;
  return (
    <div class="notes">
      {tags.map((tag) => (
        <span key={tag} class="chip">
          {tag}
        </span>
      ))}
      {note && <span>{note}</span>}
      {writes && (
        <button type="button" onClick={() => setOpen(true)}>
          Edit name and notes
        </button>
      )}
      {isOpen && <NotesDialog job={job} changed={changed} close={() => setOpen(false)} />}
    </div>
  );
}

function NotesDialog(props: { job: Job; changed: (metadata: Job["metadata"]) => void; close: () => void }) {
  const { job, changed, close } = props;
  const { name = "", tags = "", note = "" } = job.metadata ?? {};
  const [notes, setNotes] = useState<Notes>({ name, tags, note });
  const [error, setError] = useState<ApiError>();
  const set = (part: Partial<Notes>) => setNotes((old) => ({ ...old, ...part }));
  const send = async () => {
    const path = `${JOBS}/${job.id}`;
    try {
      const { metadata } = await get<Job>(path); // other pairs may have changed since the page was opened
      changed((await post<Job>(path, { metadata: withNotes(metadata, notes) })).metadata);
      close();
    } catch (problem) {
      setError(problem as ApiError);
    }
  };
  return (
    <FormDialog title="Name and notes" action="Save" error={error} send={() => void send()} close={close}>
      <TextField
        label="Name"
        path="metadata.name"
        maxLength={MAX_LENGTH}
        kind="text"
        value={notes.name}
        placeholder={job.user_provided_suffix ?? job.id}
        set={(value) => set({ name: value })}
      />
      <TextField
        label="Tags"
        path="metadata.tags"
        maxLength={MAX_LENGTH}
        kind="text"
        value={notes.tags}
        placeholder="baseline, keep"
        set={(value) => set({ tags: value })}
      />
      <Field label="Note" id="note" path="metadata.note">
        {(described) => (
          <textarea
            id="note"
            rows={4}
            maxLength={MAX_LENGTH}
            value={notes.note}
            onInput={(event) => set({ note: event.currentTarget.value })}
            {...described}
          />
        )}
      </Field>
    </FormDialog>
  );
}
