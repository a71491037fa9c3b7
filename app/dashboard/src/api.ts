// The public API, as any other client sees it; the session's cookie stands for the key.
import type { Page } from "./types";

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string | null,
    readonly param: string | null,
  ) {
    super(message);
  }
}

/** Tells the page that the session has ended. */
export const signedOut = new EventTarget();

export async function api<T>(method: string, path: string, body?: unknown): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  } catch {
    throw new ApiError("The server cannot be reached. Is it running? What you see may be out of date.", 0, null, null);
  }
  if (answer.ok) return (await answer.json()) as T;
  throw await failure(answer);
}

export async function failure(answer: Response): Promise<ApiError> {
  const sent = (await answer.json().catch(() => null)) as { error?: Record<string, string | null> } | null;
  const error = sent?.error ?? {};
  if (answer.status === 401) signedOut.dispatchEvent(new Event("out"));
  const message = error.message ?? `The server answered ${answer.status}. Try again; its log says more.`;
  return new ApiError(message, answer.status, error.code ?? null, error.param ?? null);
}

export const get = <T>(path: string): Promise<T> => api<T>("GET", path);
export const post = <T>(path: string, body: unknown = {}): Promise<T> => api<T>("POST", path, body);
export const remove = <T>(path: string): Promise<T> => api<T>("DELETE", path);

export const JOBS = "/v1/fine_tuning/jobs";

/** A path with its query; undefined and empty values are left out. */
export function query(path: string, values: Record<string, string | number | null | undefined>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== null && value !== undefined && value !== "") search.set(name, String(value));
  }
  const text = search.toString();
  return text ? `${path}?${text}` : path;
}

/** Everything that a list has, page after page. */
export async function all<T>(path: string, limit = 100): Promise<T[]> {
  const found: T[] = [];
  let after: string | null = null;
  do {
    const page: Page<T> = await get(query(path, { limit, after }));
    found.push(...page.data);
    after = page.has_more ? page.last_id : null;
  } while (after);
  return found;
}

/** Uploads a file; `progress` gets the share that is sent, from 0 to 1. */
export function upload<T>(file: File, progress: (share: number) => void): Promise<T> {
  const form = new FormData();
  form.set("purpose", "fine-tune");
  form.set("file", file);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/v1/files");
    request.responseType = "json";
    request.upload.onprogress = (event) => progress(event.loaded / event.total);
    request.onload = () => {
      if (request.status < 300) resolve(request.response as T);
      else failure(new Response(JSON.stringify(request.response), { status: request.status })).then(reject);
    };
    request.onerror = () => reject(new ApiError("The upload was interrupted. Try again.", 0, null, null));
    request.send(form);
  });
}
