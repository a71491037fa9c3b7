// Name, tags and note of a job: the pairs of its metadata that the dashboard shows and edits.

import type { Job } from "./types";

export interface Notes {
  name: string;
  tags: string;
  note: string;
}

export const nameOf = (job: Job): string => job.metadata?.name || job.user_provided_suffix || job.id;

export function tagsOf(job: Job): string[] {
  return (job.metadata?.tags ?? "")
    .split(",")
    .map((tag) => tag.trim())
    .filter(Boolean);
}

/** The metadata with these notes; empty ones are removed, other pairs stay. */
export function withNotes(metadata: Job["metadata"], notes: Notes): Record<string, string> {
  const changed: Record<string, string> = { ...metadata };
  for (const [key, value] of Object.entries(notes)) {
    const text = value.trim();
    if (text) changed[key] = text;
    else delete changed[key];
  }
  return changed;
}
