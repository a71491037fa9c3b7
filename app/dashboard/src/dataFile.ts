import { ROOT } from "./root";
// Reads and parses the lines of a data file.

export interface FileLines {
  lines: string[];
  /** Whether the whole file was read. */
  isWhole: boolean;
}

/** Reads the lines in the first `limit` bytes of a file. */
export async function readLines(id: string, limit: number): Promise<FileLines> {
  const response = await fetch(`${ROOT}/v1/files/${id}/content`);
  if (!response.ok) return { lines: [], isWhole: false };
  const reader = response.body?.getReader();
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

/** Parses a line as a row; null if it is not a JSON object. */
export function parseRow(line: string): Row | null {
  try {
    const value: unknown = JSON.parse(line);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? (value as Row) : null;
  } catch {
    return null;
  }
}

/** Returns why a line is not a valid row; null if it is. */
export function rowProblem(line: string): string | null {
  try {
    const value: unknown = JSON.parse(line);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? null : "A row must be a JSON object.";
  } catch (problem) {
    return (problem as Error).message;
  }
}

export const asText = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

/** Fields of the row format itself. */
export const ROW_FIELDS = [
  ...["messages", "prompt", "completion", "teacher_responses", "tools"],
  ...["input", "preferred_output", "non_preferred_output", "chosen", "rejected"],
];

/** Returns the messages of a row in either format. */
export function messagesOf(row: Row): Message[] {
  if (Array.isArray(row.messages)) return row.messages as Message[];
  const input = (row.input as { messages?: unknown } | null | undefined)?.messages;
  if (Array.isArray(input)) return input as Message[];
  if (Array.isArray(row.prompt)) return row.prompt as Message[];
  const own = row.completion === undefined ? [] : [{ role: "assistant", content: row.completion }];
  return [{ role: "user", content: row.prompt ?? "" }, ...own];
}

/** Returns the two answers of a preference row, in OpenAI's or TRL's form; nothing for other rows. */
export function pairOf(row: Row): { source: "preferred" | "non_preferred"; text: string }[] {
  const [preferred, other] = [row.preferred_output ?? row.chosen, row.non_preferred_output ?? row.rejected];
  if (preferred === undefined || other === undefined) return [];
  const answer = (output: unknown): string =>
    asText(Array.isArray(output) ? ((output.at(-1) as Message | undefined)?.content ?? output) : output);
  return [
    { source: "preferred", text: answer(preferred) },
    { source: "non_preferred", text: answer(other) },
  ];
}

/** Returns the answers in a row: its demonstration and its teacher answers. */
export function answersOf(row: Row): { source: "expert" | "teacher"; text: string }[] {
  const last = messagesOf(row).at(-1);
  const teachers = Array.isArray(row.teacher_responses) ? (row.teacher_responses as unknown[]) : [];
  return [
    ...(last?.role === "assistant" ? [{ source: "expert" as const, text: asText(last.content) }] : []),
    ...teachers.map((answer) => ({
      source: "teacher" as const,
      text: asText((answer as { content?: unknown } | null)?.content ?? answer),
    })),
  ];
}

/** Returns the file with lines replaced by number; null removes a line. */
export function applyChanges(lines: string[], changes: ReadonlyMap<number, string | null>): string {
  return lines
    .flatMap((line, index) => (changes.get(index + 1) === null ? [] : [changes.get(index + 1) ?? line]))
    .join("\n");
}
