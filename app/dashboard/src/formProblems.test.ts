import { describe, expect, it } from "vitest";
import { ownerOf, plainMessage } from "./formProblems";

describe("problems of a form", () => {
  it("belong to the nearest field around them", () => {
    const paths = ["suffix", "method.gft.grader", "method.gft.grader.graders.right.reference", "gates"];
    expect(ownerOf("suffix", paths)).toBe("suffix");
    expect(ownerOf("gates.0", paths)).toBe("gates");
    expect(ownerOf("method.gft.grader.graders.right.reference", paths)).toBe(paths[2]);
    expect(ownerOf("method.gft.grader.graders.wrong.type", paths)).toBe("method.gft.grader");
    expect(ownerOf("suffixes", paths)).toBeNull();
    expect(ownerOf(null, paths)).toBeNull();
  });
  it.each([
    ["'suffix' should use 1 to 64 letters; you sent 'sft one'.", "suffix", "Must use 1 to 64 letters."],
    ["'tau' should be less than or equal to 1; you sent 2.", "tau", "Must be less than or equal to 1."],
    ["'a.url' is not valid: must start with https://.", "a.url", "Must start with https://."],
    ["'model' is missing: use a base model.", "model", "Required: use a base model."],
    ["'name' is missing; add it.", "name", "Required."],
    ["There is no base model 'x'.", "model", "There is no base model 'x'."],
    ["'other' is wrong.", "name", "'other' is wrong."],
  ])("read in plain words: %s", (message, param, plain) => {
    expect(plainMessage(message, param)).toBe(plain);
  });
});
