// The answer to one request: its choices with thoughts, tool calls and verdicts, and its speed.
import { useEffect, useState } from "preact/hooks";
import { number, plural } from "../format";
import type { FileRow } from "../types";
import { type Answer, type Choice, isRunning, tokensPerSecond } from "./answers";
import type { ToolCall } from "./chatStream";
import { Tokens } from "./Tokens";
import { Verdict } from "./Verdict";

interface Props {
  answer: Answer;
  chosen: number;
  choose: (choice: number) => void;
  grading: { grader: unknown; row: FileRow } | undefined;
}

export function AnswerView({ answer, chosen, choose, grading }: Props) {
  const running = isRunning(answer);
  return (
    <article class="answer" aria-busy={running}>
      {answer.choices.map((choice, index) => (
        <ChoiceView
          key={index}
          {...{ choice, running, grading }}
          pick={
            answer.choices.length > 1 && !running
              ? { isChosen: index === chosen, act: () => choose(index), number: index + 1 }
              : undefined
          }
        />
      ))}
      {answer.state === "waiting" && <Waiting />}
      {answer.error && (
        <div class="notice bad" role="alert">
          {answer.error.message}
          {answer.error.param && (
            <small>
              {" "}
              (<code>{answer.error.param}</code>)
            </small>
          )}
        </div>
      )}
      {answer.isLimitedByContext && !answer.error && (
        <small>The default of Max tokens does not fit. The answer may use what the context has left.</small>
      )}
      {!running && <Speed answer={answer} />}
    </article>
  );
}

/** Shown until the first token, with the time if it takes long: an engine may have to load the model. */
function Waiting() {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setSeconds((old) => old + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  return (
    <p class="soft" role="status">
      Waiting for the first token{seconds >= 2 ? `, ${seconds} s` : ""} …
      {seconds >= 5 && " The engine may be loading the model."}
    </p>
  );
}

interface ChoiceProps {
  choice: Choice;
  running: boolean;
  grading: Props["grading"];
  pick: { isChosen: boolean; act: () => void; number: number } | undefined;
}

function ChoiceView({ choice, running, grading, pick }: ChoiceProps) {
  const isBlank = choice.content !== "" && !choice.content.trim() && !running;
  const isEmpty = !choice.content && !choice.calls.length && !running;
  return (
    <div class="choice">
      {pick && (
        <button
          type="button"
          class="small"
          aria-pressed={pick.isChosen}
          title="The conversation continues with this answer"
          onClick={pick.act}
        >
          Answer {pick.number}
        </button>
      )}
      {choice.reasoning && <Thoughts text={choice.reasoning} isOpen={!choice.content && running} />}
      {choice.tokens.length > 0 ? (
        <Tokens tokens={choice.tokens} />
      ) : (
        choice.content && <div class="text">{choice.content}</div>
      )}
      {isEmpty && <p class="soft">(empty answer)</p>}
      {isBlank && <p class="soft">(only white space)</p>}
      {choice.calls.map((call, index) => (
        <Call key={index} call={call} />
      ))}
      {choice.finish === "length" && <p class="cut-off">✂ Cut off at the maximum number of tokens.</p>}
      {grading && choice.finish !== null && <Verdict choice={choice} {...grading} />}
    </div>
  );
}

function Thoughts({ text, isOpen }: { text: string; isOpen: boolean }) {
  return (
    <details class="thoughts" open={isOpen}>
      <summary>Thoughts</summary>
      <div class="text soft">{text}</div>
    </details>
  );
}

function Call({ call }: { call: ToolCall }) {
  return (
    <figure class="call">
      <figcaption>
        ⚙ <b>{call.function.name}</b>
      </figcaption>
      <pre>{indented(call.function.arguments)}</pre>
    </figure>
  );
}

function indented(json: string): string {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

function Speed({ answer }: { answer: Answer }) {
  const rate = tokensPerSecond(answer);
  const first = answer.firstTokenAt === null ? undefined : Math.round(answer.firstTokenAt - answer.startedAt);
  const parts = [
    answer.state === "stopped" && "■ stopped",
    first !== undefined && `first token ${first < 1000 ? `${first} ms` : `${number(first / 1000)} s`}`,
    rate !== undefined && `${number(rate)} tokens/s`,
    answer.completionTokens !== null && plural(answer.completionTokens, "token"),
  ].filter(Boolean);
  return parts.length ? <footer class="soft speed">{parts.join(" · ")}</footer> : null;
}
