// Files without those that are equal to a newer one.

import type { FileObject } from "./types";

/** The files, newest first, without copies of the same content; a copy in `chosen` stays in place of the newest one. */
export function uniqueFiles(files: FileObject[], chosen: string[]): FileObject[] {
  const kept = new Map<string, FileObject>();
  for (const file of files) {
    if (!kept.has(file.sha256) || chosen.includes(file.id)) kept.set(file.sha256, file);
  }
  return [...kept.values()];
}
