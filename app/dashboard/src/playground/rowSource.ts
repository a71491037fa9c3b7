// A row of a job's data files as a prompt: the row, the job's grader, and how the job samples its held-out answers.
import { type ApiError, get, JOBS, query } from "../api";
import { useGet } from "../liveData";
import { baseOf, type PromptSource } from "../modelNames";
import type { FileRow, FileRows, Job, Model } from "../types";
import type { ChatMessage } from "./chatStream";

/** A row as it is asked: what belongs to its job stays the same when another row is chosen afterwards. */
export interface AskedRow {
  row: FileRow;
  job: Job | undefined;
  grader: unknown;
}

export interface RowSource {
  job: Job | undefined;
  /** Id of the file; null if the job has none of this kind. */
  file: string | null | undefined;
  row: FileRow | undefined;
  /** Number of rows in the file. */
  count: number;
  /** Whether rows follow. */
  hasMore: boolean;
  grader: unknown;
  maxTokens: number | undefined;
  error: ApiError | undefined;
}

interface Method {
  grader?: unknown;
  sampling?: { max_tokens?: number };
}

const rowsPath = (file: string, after: number, limit: number): string =>
  query(`/v1/files/${encodeURIComponent(file)}/rows`, { after, limit });

/** Requests the row that the URL names; undefined without one. */
export function useRowSource(source: PromptSource | undefined): RowSource | undefined {
  const job = useGet<Job>(source ? `${JOBS}/${encodeURIComponent(source.job)}` : null);
  const own = job.value?.id === source?.job ? job.value : undefined;
  const file = own && (source?.part === "training" ? own.training_file : own.validation_file);
  const after = (source?.row ?? 1) - 1;
  const rows = useGet<FileRows>(file ? rowsPath(file, after, 1) : null);
  if (!source) return undefined;
  const method = own?.method as Record<string, Method> | undefined;
  const settings = method?.[String(method.type)];
  const current = rows.value?.file_id === file ? rows.value : undefined;
  return {
    job: own,
    file,
    row: current?.data[0],
    count: current?.rows ?? 0,
    hasMore: current?.has_more ?? false,
    grader: settings?.grader,
    maxTokens: settings?.sampling?.max_tokens,
    error: job.error ?? rows.error,
  };
}

const MAX_BLANK_LINES = 19;

/** Returns the line of the row before a line; undefined without one. Files may have blank lines between rows. */
export async function lineBefore(file: string, line: number): Promise<number | undefined> {
  const after = Math.max(0, line - 2 - MAX_BLANK_LINES);
  const { data } = await get<FileRows>(rowsPath(file, after, MAX_BLANK_LINES + 1));
  return data.filter((row) => row.line < line).at(-1)?.line;
}

/** Returns messages of a row as a request has them: rows may leave out the ids of calls and results, requests may not. */
export function withCallIds(messages: ChatMessage[]): ChatMessage[] {
  const open: string[] = [];
  let made = 0;
  return messages.map((message) => {
    if (message.role === "tool") {
      const at = Math.max(0, open.indexOf(message.tool_call_id ?? ""));
      const [id = message.tool_call_id] = open.splice(at, 1);
      return id ? { ...message, tool_call_id: id } : message;
    }
    if (!message.tool_calls?.length) return message;
    // Mistral's templates want ids of nine letters and digits.
    const calls = message.tool_calls.map((call) => ({
      ...call,
      id: call.id || `call${String(made++).padStart(5, "0")}`,
    }));
    open.push(...calls.map(({ id }) => id));
    return { ...message, tool_calls: calls };
  });
}

/** Returns the fields that render a row as the job does. Other base models may lack the job's template variables. */
export function templateFields({ job }: AskedRow, models: Model[], name: string): Record<string, unknown> {
  const variables = job?.chat_template_kwargs ?? {};
  const model = models.find(({ id, aliases }) => id === name || aliases.includes(name));
  const isSameBase = model && job && (model.base_model ?? model.id) === baseOf(job);
  return isSameBase && Object.keys(variables).length ? { chat_template_kwargs: variables } : {};
}
