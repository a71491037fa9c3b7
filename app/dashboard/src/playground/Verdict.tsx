// The grade of an answer to a row, by the grader of the job that the row belongs to.
import { useEffect, useState } from "preact/hooks";
import { type ApiError, post } from "../api";
import { number } from "../format";
import { useCan } from "../session";
import type { FileRow, GraderRun } from "../types";
import type { Choice } from "./answers";

const RUN = "/v1/fine_tuning/alpha/graders/run";

export function Verdict({ choice, grader, row }: { choice: Choice; grader: unknown; row: FileRow }) {
  const [run, setRun] = useState<GraderRun>();
  const [error, setError] = useState<ApiError>();
  const mayGrade = useCan("jobs:write");
  const { content, reasoning, calls, finish } = choice;
  useEffect(() => {
    if (!mayGrade) return;
    const message = { role: "assistant", content, ...(calls.length ? { tool_calls: calls } : {}) };
    const sample = {
      output_tools: calls,
      output_reasoning: reasoning,
      choices: [{ index: 0, finish_reason: finish, message }],
    };
    post<GraderRun>(RUN, { grader, model_sample: content, item: row.item, sample }).then(setRun, setError);
  }, []);
  if (!mayGrade) return null;
  if (error) return <p class="problem">✕ Not graded: {error.message}</p>;
  if (!run)
    return (
      <p class="soft" role="status">
        Grading …
      </p>
    );
  const { passed, error: failed } = run.metadata;
  const parts = Object.entries(run.sub_rewards);
  if (failed) return <p class="problem">✕ The grader failed: {failed}</p>;
  return (
    <p class="verdict">
      <span class={`pill ${passed ? "good" : "bad"}`}>
        {passed ? "✓ passes" : "✕ fails"} · reward {number(run.reward)}
      </span>{" "}
      {parts.length > 0 && <small>{parts.map(([name, reward]) => `${name} ${number(reward)}`).join(", ")}</small>}
    </p>
  );
}
