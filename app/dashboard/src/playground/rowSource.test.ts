import { describe, expect, it } from "vitest";
import type { ChatMessage, ToolCall } from "./chatStream";
import { withCallIds } from "./rowSource";

const call = (id?: string) => ({ id, type: "function", function: { name: "f", arguments: "{}" } }) as ToolCall;
const calls = (...ids: (string | undefined)[]): ChatMessage => ({ role: "assistant", tool_calls: ids.map(call) });
const result = (id?: string): ChatMessage => ({ role: "tool", content: "4", ...(id && { tool_call_id: id }) });

describe("withCallIds", () => {
  it("adds the ids that a row leaves out", () => {
    const read = withCallIds([calls(undefined, undefined), result(), result(), calls(undefined), result("x")]);
    expect(read.flatMap(({ tool_calls }) => tool_calls?.map(({ id }) => id) ?? [])).toEqual([
      "call00000",
      "call00001",
      "call00002",
    ]);
    expect(read.flatMap(({ tool_call_id }) => tool_call_id ?? [])).toEqual(["call00000", "call00001", "call00002"]);
  });

  it("keeps the ids of a row", () => {
    const row = [{ role: "user", content: "2+2=" }, calls("a", "b"), result("b"), result("a")];
    expect(withCallIds(row)).toEqual(row);
    expect(withCallIds([calls("a"), result()])[1]?.tool_call_id).toBe("a");
  });
});
