import { describe, expect, it } from "vitest";
import { nameOf, tagsOf, withNotes } from "./jobNotes";
import type { Job } from "./types";

const job = (metadata: Job["metadata"]) => ({ id: "ftjob-1", user_provided_suffix: "sums", metadata }) as Job;

describe("notes of a job", () => {
  it("prefers the name of the metadata", () => {
    expect(nameOf(job({ name: "best" }))).toBe("best");
    expect(nameOf(job(null))).toBe("sums");
    expect(nameOf({ ...job({ name: "" }), user_provided_suffix: null })).toBe("ftjob-1");
  });

  it("separates tags by commas", () => {
    expect(tagsOf(job({ tags: " a, b c,,d " }))).toEqual(["a", "b c", "d"]);
    expect(tagsOf(job(null))).toEqual([]);
  });

  it("removes empty notes and keeps other metadata", () => {
    const before = { team: "a", note: "old", tags: "x" };
    expect(withNotes(before, { name: " new ", tags: "", note: "" })).toEqual({ team: "a", name: "new" });
    expect(before).toEqual({ team: "a", note: "old", tags: "x" });
  });
});
