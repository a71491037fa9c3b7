// A data file's lines, as far as a page needs them.

export interface FileLines {
  lines: string[];
  /** All of the file was read. */
  isWhole: boolean;
}

/** The lines of a file, as far as `limit` bytes. */
export async function readLines(id: string, limit: number): Promise<FileLines> {
  const answer = await fetch(`/v1/files/${id}/content`);
  if (!answer.ok) return { lines: [], isWhole: false };
  const reader = answer.body?.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let size = 0;
  while (reader && size < limit) {
    const { done, value } = await reader.read();
    if (done) return { lines: (text + decoder.decode()).split("\n"), isWhole: true };
    size += value.length;
    text += decoder.decode(value, { stream: true });
  }
  await reader?.cancel();
  return { lines: text.split("\n").slice(0, -1), isWhole: false };
}

export interface Message {
  role: string;
  content: unknown;
}

export type Row = Record<string, unknown>;

/** A line as the row that it is; null if it is none. */
export function parseRow(line: string): Row | null {
  try {
    const value: unknown = JSON.parse(line);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? (value as Row) : null;
  } catch {
    return null;
  }
}

/** Why a line is no row, in a browser's words; null if it is one. */
export function rowProblem(line: string): string | null {
  try {
    const value: unknown = JSON.parse(line);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? null : "A row is one JSON object.";
  } catch (problem) {
    return (problem as Error).message;
  }
}

export const asText = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

/** A row's talk, in either form. */
export function messagesOf(row: Row): Message[] {
  if (Array.isArray(row.messages)) return row.messages as Message[];
  const own = row.completion === undefined ? [] : [{ role: "assistant", content: row.completion }];
  return [{ role: "user", content: row.prompt ?? "" }, ...own];
}

/** The answers that a row brings along: its demonstration and its teachers'. */
export function answersOf(row: Row): { source: "expert" | "teacher"; text: string }[] {
  const last = messagesOf(row).at(-1);
  const teachers = Array.isArray(row.teacher_responses) ? (row.teacher_responses as unknown[]) : [];
  return [
    ...(last?.role === "assistant" ? [{ source: "expert" as const, text: asText(last.content) }] : []),
    ...teachers.map((one) => ({
      source: "teacher" as const,
      text: asText((one as { content?: unknown } | null)?.content ?? one),
    })),
  ];
}

/** The file's lines with some of them replaced; a null leaves its line out. */
export function applyChanges(lines: string[], changes: ReadonlyMap<number, string | null>): string {
  return lines
    .flatMap((line, index) => (changes.get(index + 1) === null ? [] : [changes.get(index + 1) ?? line]))
    .join("\n");
}
