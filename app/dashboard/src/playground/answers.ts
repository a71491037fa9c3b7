// Answers as they grow: the choices of a streamed response, its speed, and its way into the history of a conversation.
import type { ApiError } from "../api";
import type { ChatChunk, ChatMessage, ChoiceDelta, TokenLogprob, ToolCall } from "./chatStream";

export interface Choice {
  reasoning: string;
  content: string;
  calls: ToolCall[];
  /** Empty unless log-probs were requested. */
  tokens: TokenLogprob[];
  finish: string | null;
}

export type AnswerState = "waiting" | "streaming" | "done" | "stopped" | "failed";

export interface Answer {
  state: AnswerState;
  choices: Choice[];
  /** Milliseconds on the page's clock. */
  startedAt: number;
  firstTokenAt: number | null;
  endedAt: number | null;
  completionTokens: number | null;
  /** Whether the context has no room for the default of `max_tokens`, so that the answer may use what is left. */
  isLimitedByContext: boolean;
  error: ApiError | null;
}

const newChoice = (): Choice => ({ reasoning: "", content: "", calls: [], tokens: [], finish: null });

export const newAnswer = (now: number): Answer => ({
  state: "waiting",
  choices: [],
  startedAt: now,
  firstTokenAt: null,
  endedAt: null,
  completionTokens: null,
  isLimitedByContext: false,
  error: null,
});

/** Adds a chunk to the answer, in place. */
export function addChunk(answer: Answer, chunk: ChatChunk, now: number): void {
  for (const piece of chunk.choices) {
    while (answer.choices.length <= piece.index) answer.choices.push(newChoice());
    addDelta(answer.choices[piece.index] as Choice, piece);
    if (answer.firstTokenAt === null && hasText(piece)) {
      answer.firstTokenAt = now;
      answer.state = "streaming";
    }
  }
  if (chunk.usage) answer.completionTokens = chunk.usage.completion_tokens;
}

const hasText = ({ delta }: ChoiceDelta): boolean =>
  Boolean(delta.content || delta.reasoning_content || delta.tool_calls?.length);

function addDelta(choice: Choice, { delta, finish_reason, logprobs }: ChoiceDelta): void {
  choice.reasoning += delta.reasoning_content ?? "";
  choice.content += delta.content ?? "";
  for (const { index, id, function: part } of delta.tool_calls ?? []) {
    choice.calls[index] ??= { id: id ?? `call_${index}`, type: "function", function: { name: "", arguments: "" } };
    const written = choice.calls[index].function;
    written.name += part?.name ?? "";
    written.arguments += part?.arguments ?? "";
  }
  choice.tokens.push(...(logprobs?.content ?? []));
  choice.finish = finish_reason ?? choice.finish;
}

export const isRunning = (answer: Answer): boolean => answer.state === "waiting" || answer.state === "streaming";

/** Returns the choice as a message of the conversation's history, without its thoughts. */
export function asMessage(choice: Choice): ChatMessage {
  return {
    role: "assistant",
    content: choice.content || (choice.calls.length ? null : ""),
    ...(choice.calls.length ? { tool_calls: choice.calls } : {}),
  };
}

/** Returns the text that each token adds: a character of several tokens is the text of the last one. */
export function tokenTexts(tokens: TokenLogprob[]): string[] {
  const decoder = new TextDecoder();
  const texts = tokens.map(({ token, bytes }) =>
    bytes ? decoder.decode(new Uint8Array(bytes), { stream: true }) : token,
  );
  const cut = decoder.decode();
  return cut ? [...texts.slice(0, -1), `${texts.at(-1) ?? ""}${cut}`] : texts;
}

/** Returns the tokens per second after the first one; undefined for fewer than two tokens. */
export function tokensPerSecond({ completionTokens, firstTokenAt, endedAt, choices }: Answer): number | undefined {
  const later = (completionTokens ?? 0) - choices.length;
  if (firstTokenAt === null || endedAt === null || later < 1 || endedAt <= firstTokenAt) return undefined;
  return (later * 1000) / (endedAt - firstTokenAt);
}
