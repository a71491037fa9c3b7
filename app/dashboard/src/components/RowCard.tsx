// One row of a data file: its messages and answers, and the fields that graders read.

import { asText, messagesOf, pairOf, ROW_FIELDS, type Row } from "../dataFile";
import { SourceChip } from "./primitives";

export function RowCard({ line, row, label = `Line ${line}` }: { line: number; row: Row; label?: string }) {
  const { teacher_responses: teacher } = row;
  const rest = Object.entries(row).filter(([name]) => !ROW_FIELDS.includes(name));
  const talk = messagesOf(row);
  const last = talk.at(-1)?.role === "assistant" ? talk.length - 1 : -1;
  return (
    <article class="talk" aria-label={`Row of line ${line}`}>
      <span class="soft">{label}</span>
      {talk.map((message, index) => (
        <div key={index} class={`turn ${index === last ? "trained" : ""}`}>
          {index === last ? <SourceChip source="expert" /> : <span class="chip">{String(message?.role)}</span>}
          <span>{asText(message?.content)}</span>
        </div>
      ))}
      {Array.isArray(teacher) &&
        teacher.map((answer, index) => (
          <div key={`teacher-${index}`} class="turn trained">
            <SourceChip source="teacher" />
            <span>{asText((answer as { content?: unknown } | null)?.content ?? answer)}</span>
          </div>
        ))}
      {pairOf(row).map(({ source, text }) => (
        <div key={source} class="turn trained">
          <SourceChip source={source} />
          <span>{text}</span>
        </div>
      ))}
      {rest.length > 0 && (
        <div class="turn">
          <span class="chip">item</span>
          <span>
            {rest.map(([key, value]) => (
              <span key={key}>
                <code>{key}</code> {asText(value)}{" "}
              </span>
            ))}
          </span>
        </div>
      )}
    </article>
  );
}
