import { describe, expect, it } from "vitest";
import type { FileObject } from "./types";
import { uniqueFiles } from "./uniqueFiles";

const file = (id: string, sha256: string) => ({ id, sha256 }) as FileObject;
const FILES = [file("new", "a"), file("other", "b"), file("old", "a")];

describe("files of a list", () => {
  it("lists copies of the same content once", () => {
    expect(uniqueFiles(FILES, []).map(({ id }) => id)).toEqual(["new", "other"]);
  });

  it("keeps the chosen copy", () => {
    expect(uniqueFiles(FILES, ["old"]).map(({ id }) => id)).toEqual(["old", "other"]);
  });
});
