// Requests to the public API, the same one that other clients use. The session cookie replaces the API key.
import { checkConnection } from "./connection";
import { ROOT } from "./root";
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

/** Dispatches `out` with the server's reason when a request shows that the session has ended. */
export const signedOut = new EventTarget();

export async function api<T>(method: string, path: string, body?: unknown): Promise<T> {
  let response: Response;
  try {
    response = await fetch(ROOT + path, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  } catch {
    checkConnection();
    throw new ApiError("Cannot reach the server. Check that it is running.", 0, null, null);
  }
  if (response.ok) return (await response.json()) as T;
  throw await failure(response);
}

export async function failure(response: Response): Promise<ApiError> {
  const sent = (await response.json().catch(() => null)) as { error?: Record<string, string | null> } | null;
  const error = sent?.error ?? {};
  const message =
    error.message ?? `The server returned status ${response.status}. Try again; if it persists, see the server's log.`;
  // A refused sign-in leaves the current session as it is.
  if (response.status === 401 && !response.url.endsWith(SESSION))
    signedOut.dispatchEvent(new CustomEvent("out", { detail: message }));
  return new ApiError(message, response.status, error.code ?? null, error.param ?? null);
}

export const get = <T>(path: string): Promise<T> => api<T>("GET", path);
export const post = <T>(path: string, body: unknown = {}): Promise<T> => api<T>("POST", path, body);
export const remove = <T>(path: string): Promise<T> => api<T>("DELETE", path);

export const SESSION = "/v1/dashboard/session";
export const JOBS = "/v1/fine_tuning/jobs";

/** Returns a path with a query string; omits undefined, null and empty values. */
export function query(path: string, values: Record<string, string | number | null | undefined>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== null && value !== undefined && value !== "") search.set(name, String(value));
  }
  const text = search.toString();
  return text ? `${path}?${text}` : path;
}

/** Returns all items of a list, requesting page after page. */
export async function all<T>(path: string, limit = 100): Promise<T[]> {
  const items: T[] = [];
  let after: string | null = null;
  do {
    const page: Page<T> = await get(query(path, { limit, after }));
    items.push(...page.data);
    after = page.has_more ? page.last_id : null;
  } while (after);
  return items;
}
