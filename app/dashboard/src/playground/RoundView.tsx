// One round of a conversation: the prompt, and below it the answers of each column.
import { useEffect, useRef } from "preact/hooks";
import { asText } from "../dataFile";
import { modelTitle } from "../modelNames";
import { AnswerView } from "./AnswerView";
import { isRunning } from "./answers";
import type { Conversation, RequestSettings, Round, Turn } from "./conversation";
import { KnownAnswers, toolName } from "./RowPicker";
import { ToolResults } from "./ToolResults";

interface Props {
  round: Round;
  columns: string[];
  conversation: Conversation;
  isLast: boolean;
  settings: RequestSettings;
}

export function RoundView({ round, columns, conversation, isLast, settings }: Props) {
  const { asked } = round.prompt;
  const section = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (isLast) section.current?.scrollIntoView({ block: "nearest" });
  }, []);
  return (
    <div ref={section} class="round">
      <PromptView prompt={round.prompt} />
      <div class="columns">
        {columns.map((model) => {
          const turns = round.turns.get(model) ?? [];
          return (
            <div key={model} class="cell" role="group" aria-label={`Answers of ${modelTitle(model)}`}>
              <h3 class="narrow-only">{modelTitle(model)}</h3>
              {turns.map((turn, index) => (
                <TurnView
                  key={index}
                  turn={turn}
                  choose={(choice) => conversation.choose(turn, choice)}
                  grading={asked?.grader && index === 0 ? asked : undefined}
                  sendResults={
                    isLast && turn === turns.at(-1)
                      ? (results) => conversation.sendResults(round, model, results, settings)
                      : undefined
                  }
                  retry={isLast && turn === turns.at(-1) ? () => conversation.retry(round, model, settings) : undefined}
                />
              ))}
              {!turns.length && isLast && (
                <button
                  type="button"
                  disabled={conversation.isRunning}
                  onClick={() => void conversation.catchUp(model, settings)}
                >
                  Ask this model, too
                </button>
              )}
            </div>
          );
        })}
      </div>
    </div>
  );
}

function PromptView({ prompt }: { prompt: Round["prompt"] }) {
  const row = prompt.asked?.row;
  return (
    <div class="asked" tabIndex={0} role="region" aria-label="Prompt">
      {row && <span class="soft">Line {row.line}</span>}
      {prompt.messages.map((message, index) => (
        <div key={index} class="turn">
          <span class="chip">{message.role}</span>
          <span>{asText(message.content ?? message.tool_calls)}</span>
        </div>
      ))}
      {row && row.tools.length > 0 && (
        <div class="turn">
          <span class="chip">tools</span>
          <span>{row.tools.map(toolName).join(", ")}</span>
        </div>
      )}
      {row && <KnownAnswers row={row} />}
    </div>
  );
}

interface TurnProps {
  turn: Turn;
  choose: (choice: number) => void;
  grading: Parameters<typeof AnswerView>[0]["grading"];
  sendResults: Parameters<typeof ToolResults>[0]["send"] | undefined;
  retry: (() => void) | undefined;
}

function TurnView({ turn, choose, grading, sendResults, retry }: TurnProps) {
  const calls = turn.answer.choices[turn.chosen]?.calls ?? [];
  return (
    <>
      {turn.sent.map((message, index) => (
        <div key={index} class="turn tool-result">
          <span class="chip">tool</span>
          <span>{asText(message.content)}</span>
        </div>
      ))}
      <AnswerView {...{ grading, choose }} answer={turn.answer} chosen={turn.chosen} />
      {retry && turn.answer.state === "failed" && (
        <button type="button" onClick={retry}>
          Try again
        </button>
      )}
      {sendResults && calls.length > 0 && !isRunning(turn.answer) && <ToolResults calls={calls} send={sendResults} />}
    </>
  );
}
