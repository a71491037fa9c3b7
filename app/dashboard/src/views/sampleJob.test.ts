import { describe, expect, it } from "vitest";
import heldOut from "../../../../examples/arithmetic.heldout.jsonl?raw";
import training from "../../../../examples/arithmetic.train.jsonl?raw";
import { HELD_OUT, TRAINING } from "./sampleJob";

async function sha256(text: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

describe("sample files", () => {
  it.each([
    [TRAINING, training],
    [HELD_OUT, heldOut],
  ])("have the digest by which the server finds them: $name", async (file, content) => {
    expect(await sha256(content)).toBe(file.sha256);
  });
});
