import { describe, expect, it } from "vitest";
import { addChunk, asMessage, newAnswer, tokensPerSecond, tokenTexts } from "./answers";
import { splitEvents } from "./chatStream";

describe("splitEvents", () => {
  it("returns whole events and keeps the rest", () => {
    const { events, rest } = splitEvents('data: {"a":1}\n\n: comment\n\ndata: [DONE]\r\n\r\ndata: {"b');
    expect(events).toEqual(['{"a":1}', "[DONE]"]);
    expect(rest).toBe('data: {"b');
    expect(splitEvents(`${rest}":2}\n\n`).events).toEqual(['{"b":2}']);
  });
});

describe("tokenTexts", () => {
  it("joins the parts of a character", () => {
    const part = (...bytes: number[]) => ({ token: "\ufffd", bytes, logprob: 0 });
    expect(tokenTexts([part(104), part(0xf0, 0x9f), part(0x99, 0x82), part(105)])).toEqual(["h", "", "🙂", "i"]);
    expect(tokenTexts([part(104), part(0xf0, 0x9f)])).toEqual(["h", "\ufffd"]);
    expect(tokenTexts([{ token: "old", logprob: 0 }])).toEqual(["old"]);
    expect(tokenTexts([])).toEqual([]);
  });
});

describe("addChunk", () => {
  it("joins the pieces of each choice", () => {
    const answer = newAnswer(0);
    addChunk(answer, { choices: [{ index: 0, delta: { content: "" } }] }, 5);
    expect(answer.firstTokenAt).toBeNull();
    addChunk(answer, { choices: [{ index: 1, delta: { reasoning_content: "hm" } }] }, 100);
    addChunk(answer, { choices: [{ index: 0, delta: { content: "fo" } }] }, 120);
    const token = { token: "ur", logprob: -0.1 };
    const last = { index: 0, delta: { content: "ur" }, finish_reason: "stop", logprobs: { content: [token] } };
    addChunk(answer, { choices: [last] }, 140);
    addChunk(answer, { choices: [], usage: { prompt_tokens: 3, completion_tokens: 7 } }, 1100);
    expect(answer.choices.map((choice) => [choice.content, choice.reasoning, choice.finish])).toEqual([
      ["four", "", "stop"],
      ["", "hm", null],
    ]);
    expect(answer.choices[0]?.tokens).toEqual([token]);
    expect(answer.firstTokenAt).toBe(100);
    expect(tokensPerSecond({ ...answer, endedAt: 1100 })).toBe(5);
    expect(tokensPerSecond({ ...answer, endedAt: 1100, completionTokens: 2 })).toBeUndefined();
  });

  it("joins tool calls by index", () => {
    const answer = newAnswer(0);
    const part = (index: number, id: string | undefined, name: string, text: string) => ({
      choices: [
        { index: 0, delta: { tool_calls: [{ index, ...(id ? { id } : {}), function: { name, arguments: text } }] } },
      ],
    });
    for (const chunk of [part(0, "a", "add", '{"x"'), part(0, undefined, "", ": 1}"), part(1, "b", "sub", "{}")])
      addChunk(answer, chunk, 1);
    const [choice] = answer.choices;
    if (!choice) throw new Error("no choice");
    expect(asMessage(choice)).toEqual({
      role: "assistant",
      content: null,
      tool_calls: [
        { id: "a", type: "function", function: { name: "add", arguments: '{"x": 1}' } },
        { id: "b", type: "function", function: { name: "sub", arguments: "{}" } },
      ],
    });
  });
});
