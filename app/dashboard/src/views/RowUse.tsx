// How many rows of its files a job uses, and why it loses the others.
import { plural } from "../format";
import type { RowUse as Use } from "../types";

const REASONS: Record<string, string> = {
  template_refused: "rejected by the chat template",
  prompt_too_long: "with a prompt that is too long",
  answer_too_long: "with an answer that is too long",
  no_answer: "without an answer to learn from",
  demonstration_rejected: "without a demonstration that passes the grader",
};
const are = (count: number): string => (count === 1 ? "is" : "are");
const TOLERATED_SHARE = 0.1;

/** The rows of one file: a tick if all are used, else how many are lost and why. */
function FileRows({ label, use, isQuiet }: { label: string; use: Use | null | undefined; isQuiet: boolean }) {
  const reasons = Object.entries(use?.dropped ?? {});
  const lost = reasons.reduce((sum, [, count]) => sum + count, 0);
  if (!use || (isQuiet && !lost)) return null;
  const total = use.used + lost;
  // Rows that the job leaves out on request are no flaw of the file.
  const flawed = lost - (use.dropped.demonstration_rejected ?? 0);
  const tone = !flawed ? "good" : use.used && flawed <= TOLERATED_SHARE * total ? "hold" : "bad";
  const why = reasons.map(([reason, count]) => `${count.toLocaleString("en-US")} ${REASONS[reason] ?? reason}`);
  return (
    <p class={`notice ${tone}`} role="status">
      {{ good: "✓", hold: "⚠", bad: "✕" }[tone]} <b>{label}:</b>{" "}
      {lost
        ? `${use.used.toLocaleString("en-US")} of ${plural(total, "row")} ${are(use.used)} used; ${why.join(", ")}.`
        : total === 1
          ? "the only row is used."
          : `all ${plural(total, "row")} are used.`}
    </p>
  );
}

/** The rows of all files of a job or a validation; with `isQuiet`, only of a file that loses rows. */
export function RowsUsed({
  of,
  isQuiet = false,
}: {
  of: { rows?: Use | null; held_out_rows?: Use | null; test_rows?: Use | null };
  isQuiet?: boolean;
}) {
  return (
    <>
      <FileRows label="Training file" use={of.rows} isQuiet={isQuiet} />
      <FileRows label="Held-out file" use={of.held_out_rows} isQuiet={isQuiet} />
      <FileRows label="Test file" use={of.test_rows} isQuiet={isQuiet} />
    </>
  );
}
