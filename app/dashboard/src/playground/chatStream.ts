// Streams the answer to a chat completion request: the chunks of `POST /v1/chat/completions`, as they arrive.
import { ApiError, failure } from "../api";
import { ROOT } from "../root";

export interface ToolCall {
  id: string;
  type: "function";
  function: { name: string; arguments: string };
}

export interface ChatMessage {
  role: string;
  content?: unknown;
  tool_calls?: ToolCall[];
  tool_call_id?: string;
}

export interface TokenLogprob {
  token: string;
  /** In UTF-8; a token may be a part of a character. */
  bytes?: number[] | null;
  logprob: number;
  top_logprobs?: { token: string; logprob: number }[];
}

export interface ChoiceDelta {
  index: number;
  delta: {
    content?: string | null;
    reasoning_content?: string | null;
    tool_calls?: { index: number; id?: string; function?: { name?: string; arguments?: string } }[];
  };
  finish_reason?: string | null;
  logprobs?: { content?: TokenLogprob[] | null } | null;
}

export interface ChatChunk {
  choices: ChoiceDelta[];
  usage?: { prompt_tokens: number; completion_tokens: number } | null;
}

const END = "[DONE]";

/** Splits received text into the data of complete events, and the rest, which continues with the next piece. */
export function splitEvents(text: string): { events: string[]; rest: string } {
  const parts = text.replaceAll("\r\n", "\n").split("\n\n");
  const rest = parts.pop() ?? "";
  const events = parts.map((part) =>
    part
      .split("\n")
      .filter((line) => line.startsWith("data:"))
      .map((line) => line.slice("data:".length).trimStart())
      .join("\n"),
  );
  return { events: events.filter(Boolean), rest };
}

function parseChunk(data: string): ChatChunk {
  const sent = JSON.parse(data) as ChatChunk & { error?: Record<string, string | null> };
  if (!sent.error) return sent;
  const { message, code, param } = sent.error;
  throw new ApiError(message ?? "The engine failed.", 200, code ?? null, param ?? null);
}

/** Sends the request and yields the chunks of its answer. Throws `ApiError`, also for an error within the stream. */
export async function* chatChunks(body: object, signal: AbortSignal): AsyncGenerator<ChatChunk> {
  const response = await fetch(`${ROOT}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!response.ok || !response.body) throw await failure(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) break;
    const { events, rest } = splitEvents(text + value);
    text = rest;
    for (const data of events) {
      if (data === END) return;
      yield parseChunk(data);
    }
  }
  throw new ApiError("The server closed the connection before the answer was complete. Ask again.", 0, null, null);
}
