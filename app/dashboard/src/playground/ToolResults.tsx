// A form for the results of tool calls, which the model then continues from.
import { useState } from "preact/hooks";
import type { ChatMessage, ToolCall } from "./chatStream";

export function ToolResults({ calls, send }: { calls: ToolCall[]; send: (results: ChatMessage[]) => void }) {
  const [texts, setTexts] = useState<Record<string, string>>({});
  const submit = (event: Event) => {
    event.preventDefault();
    send(calls.map(({ id }) => ({ role: "tool", tool_call_id: id, content: texts[id] ?? "" })));
  };
  return (
    <form class="results-form" onSubmit={submit}>
      {calls.map(({ id, function: { name } }) => (
        <label key={id} class="field">
          <span>Result of {name}</span>
          <textarea
            rows={2}
            required
            value={texts[id] ?? ""}
            onInput={(event) => setTexts({ ...texts, [id]: event.currentTarget.value })}
          />
        </label>
      ))}
      <button type="submit" class="small">
        Send {calls.length === 1 ? "the result" : "the results"}
      </button>
    </form>
  );
}
