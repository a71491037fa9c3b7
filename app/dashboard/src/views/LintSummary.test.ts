import { expect, test } from "vitest";
import type { Lint } from "../types";
import { signalTone } from "./LintSummary";

const lint = (changed: Partial<Lint>): Lint =>
  ({ experts: { graded: 4, passed: 4 }, error_count: 0, signal_share: 0.8, signal_share_limit: 1, ...changed }) as Lint;

test("a file without known contrast has no green tick", () => {
  expect(signalTone(lint({}))).toBe("good");
  expect(signalTone(lint({ signal_share: 0 }))).toBe("hold");
  expect(signalTone(lint({ signal_share: 0, signal_share_limit: 0 }))).toBe("bad");
  expect(signalTone(lint({ signal_share: 0.1, signal_share_limit: 0.4 }))).toBe("hold");
});

test("demonstrations that fail their grader are shown", () => {
  expect(signalTone(lint({ experts: { graded: 4, passed: 3 } as Lint["experts"] }))).toBe("hold");
  expect(signalTone(lint({ error_count: 1 }))).toBe("hold");
});
