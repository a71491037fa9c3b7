// The methods that fit the training file, with reasons. Only pairs of answers choose their method without a click.
import { useEffect, useRef, useState } from "preact/hooks";
import { post } from "../api";
import { Marked } from "../components/FormFields";
import type { SuggestedMethod } from "../types";
import { METHODS, type MethodName } from "./jobForm";

const PAUSE_MS = 500;

export interface Choice {
  method: MethodName;
  demonstrations: "all" | "graded";
}

interface Props {
  file: string;
  /** The grader that the user has written, as JSON; null for the one that the server suggests. */
  grader: string | null;
  /** False while the server has not accepted the grader. */
  isValid: boolean;
  chosen: Choice;
  take: (choice: Choice) => void;
  /** Receives whether the file can train only `dpo`. */
  follow: (isOnlyPairs: boolean) => void;
}

export function MethodSuggestion({ file, grader, isValid, chosen, take, follow }: Props) {
  const found = useSuggestedMethods(file, grader, isValid);
  const onFound = useRef(follow);
  onFound.current = follow;
  useEffect(() => {
    const fitting = found?.suggestions;
    if (fitting) onFound.current(fitting.length === 1 && fitting[0]?.method === "dpo");
  }, [found]);
  if (!found?.suggestions.length) return null;
  const [best, ...others] = found.suggestions.map(({ method, demonstrations, reason }) => ({
    choice: { method: method as MethodName, demonstrations },
    reason,
  }));
  return (
    <section class="notice" aria-label="Suggested method" aria-live="polite">
      {best && <Suggestion {...best} title="Suggested for this file" {...{ chosen, take }} />}
      {others.length > 0 && (
        <details>
          <summary>Alternatives</summary>
          {others.map((other) => (
            <Suggestion key={name(other.choice)} {...other} title="Or" {...{ chosen, take }} />
          ))}
        </details>
      )}
      {found.graded && <small>Graded: {found.graded}.</small>}
    </section>
  );
}

function Suggestion(props: {
  title: string;
  choice: Choice;
  reason: string;
  chosen: Choice;
  take: (choice: Choice) => void;
}) {
  const { title, choice, reason, chosen, take } = props;
  const isChosen = choice.method === chosen.method && choice.demonstrations === chosen.demonstrations;
  return (
    <div class="row between">
      <p>
        <b>
          {isChosen && "✓ "}
          {title}: {name(choice)}.
        </b>{" "}
        <Marked text={reason} />
      </p>
      {!isChosen && (
        <button type="button" class="small" onClick={() => take(choice)}>
          Use {name(choice)}
        </button>
      )}
    </div>
  );
}

/** A method with its demonstrations, in words. */
function name({ method, demonstrations }: Choice): string {
  const title = METHODS.find((one) => one.name === method)?.title ?? method;
  return demonstrations === "graded" ? `${title} with graded demonstrations` : title;
}

/** The server's suggestions for a file, requested a moment after the last change; undefined until they arrive. */
function useSuggestedMethods(file: string, grader: string | null, isValid: boolean): SuggestedMethod | undefined {
  const [found, setFound] = useState<{ of: string; value: SuggestedMethod }>();
  const key = `${file} ${grader}`;
  useEffect(() => {
    if (!file || !isValid) return;
    let current = true;
    const body = grader === null ? {} : { grader: JSON.parse(grader) };
    const timer = setTimeout(() => {
      post<SuggestedMethod>(`/v1/files/${file}/suggested_method`, body).then(
        (value) => current && setFound({ of: key, value }),
        () => undefined, // the form works without a suggestion
      );
    }, PAUSE_MS);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [key, isValid]);
  return found?.of === key ? found.value : undefined;
}
