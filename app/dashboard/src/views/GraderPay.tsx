// What a grader pays for the answers in a file: the mean by source, the distribution, and the lowest rewards.
import { useEffect, useState } from "preact/hooks";
import { type ApiError, post } from "../api";
import { DataTable } from "../components/DataTable";
import { ErrorNotice, Meter, SourceChip } from "../components/primitives";
import { number, plural } from "../format";
import type { FileLint, Lint } from "../types";
import { callsServer, readGrader } from "./graderTemplates";

const PAUSE_MS = 500;
const ANSWERS = 100;
const REMOTE_ANSWERS = 8;
const WORST = 5;
/** All known answers of a row count. */
const GROUP = { expert: 1, teacher: 32, self: 4 };

interface Result {
  of: string;
  lint?: Lint;
  error?: ApiError;
}

interface Props {
  /** The grader as JSON. */
  grader: string;
  file: string;
  /** False while the server has not accepted the grader. */
  isValid: boolean;
}

export function GraderPay({ grader: text, file, isValid }: Props) {
  const [result, setResult] = useState<Result>();
  const [isBusy, setBusy] = useState(false);
  const grader = readGrader(text);
  const isRemote = callsServer(grader);
  const key = grader && file ? `${file} ${JSON.stringify(grader)}` : null;
  const run = async (isWanted: () => boolean) => {
    if (key === null) return;
    setBusy(true);
    const body = { grader, group: GROUP, answers: isRemote ? REMOTE_ANSWERS : ANSWERS, remote: isRemote };
    const ended = await post<FileLint>(`/v1/files/${file}/lint`, body).then(
      ({ report }): Result => ({ of: key, lint: report }),
      (error: ApiError): Result => ({ of: key, error }),
    );
    if (!isWanted()) return;
    setBusy(false);
    setResult(ended);
  };
  useEffect(() => {
    let current = true;
    setBusy(false);
    const isDone = result?.of === key && !result?.error;
    const timer = isRemote || isDone || !isValid ? undefined : setTimeout(() => void run(() => current), PAUSE_MS);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [key, isValid]);
  const shown = result?.of === key ? result : undefined;
  if (key === null || (!isValid && !shown && !isRemote)) return null;
  return (
    <section class="pay" aria-label="Grades of the answers in the file" aria-busy={isBusy}>
      {isRemote && (
        <p class="row between">
          <span class="soft">This grader sends a request to another server for each answer.</span>
          <button type="button" disabled={isBusy} onClick={() => void run(() => true)}>
            {isBusy ? "Grading …" : `Test on about ${REMOTE_ANSWERS} answers in the file`}
          </button>
        </p>
      )}
      {!shown && !isRemote && isValid && <p class="soft">Grading the answers in the file …</p>}
      {shown?.error && shown.error.status !== 400 && (
        <ErrorNotice error={shown.error} retry={() => void run(() => true)} />
      )}
      {shown?.error?.status === 400 && isRemote && <p class="problem">✕ {shown.error.message}</p>}
      {shown?.lint && <Pay lint={shown.lint} />}
    </section>
  );
}

function Pay({ lint }: { lint: Lint }) {
  const { experts, teachers, rewards, worst } = lint;
  const graded = experts.graded + teachers.graded;
  const errors = experts.errors + teachers.errors;
  if (!graded && !errors) return <p class="soft">The file contains no answers to grade. Rollouts will be graded.</p>;
  const sources = [
    { source: "expert", name: "demonstrations", ...experts },
    { source: "teacher", name: "teacher answers", ...teachers },
  ].filter((one) => one.graded > 0);
  const most = Math.max(...rewards.map(({ answers }) => answers), 1);
  return (
    <>
      <h3>Rewards for the answers in the file</h3>
      <ul class="plain pay-sources">
        {sources.map(({ source, name, mean_reward, passed, graded: count }) => (
          <li key={source}>
            <SourceChip source={source} /> <b>{number(mean_reward)}</b> on average; {passed} of {count} {name} pass
          </li>
        ))}
        {errors > 0 && <li class="problem">✕ {plural(errors, "answer")} cannot be graded.</li>}
      </ul>
      {rewards.length > 0 && (
        <ul class="plain distribution" aria-label="Distribution of the rewards">
          {rewards.map(({ start, end, answers }) => (
            <li key={start}>
              <span>{start === end ? number(start) : `${number(start)} to ${number(end)}`}</span>
              <Meter share={answers / most} label={`${answers} of ${plural(graded, "answer")}`} />
              <span>{plural(answers, "answer")}</span>
            </li>
          ))}
        </ul>
      )}
      {rewards.length === 1 && rewards[0]?.start === rewards[0]?.end && graded > 1 && (
        <p class="soft">All answers have the same reward. That is fine if they are equally good.</p>
      )}
      <details>
        <summary>Lowest rewards</summary>
        <DataTable label="Lowest rewards" columns={["Line", "Answer", "Reward"]}>
          {worst.slice(0, WORST).map((answer, index) => (
            <tr key={index}>
              <td>{answer.line}</td>
              <td class="text">
                <SourceChip source={answer.source} /> {answer.text}
              </td>
              <td>
                {answer.error ? <span class="problem">✕ {answer.error}</span> : <b>{number(answer.reward ?? 0)}</b>}
              </td>
            </tr>
          ))}
        </DataTable>
      </details>
      <p class="soft">Graded: {lint.sample}.</p>
    </>
  );
}
