// Uploads of files. A content that the project has already is not uploaded again.
import { ApiError, failure, get, query } from "./api";
import { ROOT } from "./root";
import type { FileObject, Page } from "./types";

const FILES = "/v1/files";
/** Browsers compute digests in memory, so larger files are uploaded without looking for a stored copy. */
const MAX_HASHED_BYTES = 512 * 1024 ** 2;

export type Purpose = "fine-tune" | "evals";

export interface Uploaded {
  file: FileObject;
  /** Whether the project had a file of this content and purpose, which is then `file`. */
  isStored: boolean;
}

/** Uploads a file, or finds its stored copy; calls `progress` with the share that is sent, from 0 to 1. */
export async function upload(
  file: File,
  progress: (share: number) => void,
  purpose: Purpose = "fine-tune",
): Promise<Uploaded> {
  const stored = await storedCopy(file, purpose);
  return stored ? { file: stored, isStored: true } : { file: await send(file, progress, purpose), isStored: false };
}

/** The project's newest file of this content; undefined without one, or if this page cannot know. */
async function storedCopy(file: File, purpose: Purpose): Promise<FileObject | undefined> {
  // Pages that are not loaded by https or from this machine have no `crypto.subtle`.
  if (!isSecureContext || file.size > MAX_HASHED_BYTES) return undefined;
  const sha256 = hex(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  try {
    return (await get<Page<FileObject>>(query(FILES, { purpose, sha256, limit: 1 }))).data[0];
  } catch (error) {
    if (error instanceof ApiError && error.status === 403) return undefined; // a key that may upload but not list
    throw error;
  }
}

export const hex = (bytes: ArrayBuffer): string =>
  [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");

function send(file: File, progress: (share: number) => void, purpose: Purpose): Promise<FileObject> {
  const form = new FormData();
  form.set("purpose", purpose);
  form.set("file", file);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", ROOT + FILES);
    request.responseType = "json";
    request.upload.onprogress = (event) => progress(event.loaded / event.total);
    request.onload = () => {
      if (request.status < 300) resolve(request.response as FileObject);
      else failure(new Response(JSON.stringify(request.response), { status: request.status })).then(reject);
    };
    request.onerror = () => reject(new ApiError("The upload was interrupted. Try again.", 0, null, null));
    request.send(form);
  });
}
