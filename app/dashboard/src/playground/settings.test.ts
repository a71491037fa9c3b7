import { describe, expect, it } from "vitest";
import { EMPTY_SETTINGS, EXAMPLE_TOOLS, requestFields, samplingNote, toolsProblem } from "./settings";

describe("toolsProblem", () => {
  it("names the first invalid tool", () => {
    const tool = (name: string, parameters: unknown) => ({ type: "function", function: { name, parameters } });
    expect(toolsProblem(EXAMPLE_TOOLS)).toBeUndefined();
    expect(toolsProblem("[")).toContain("Invalid JSON");
    expect(toolsProblem("{}")).toContain("must be a list");
    expect(toolsProblem('[{"name": "x"}]')).toContain("Tool 1 must be");
    expect(toolsProblem(JSON.stringify([tool("ok", {}), tool("not ok", {})]))).toContain("Tool 2 needs a `name`");
    expect(toolsProblem(JSON.stringify([tool("not.ok", {})]))).toContain("letters, digits, _ and -");
    expect(toolsProblem(JSON.stringify([tool("add", [])]))).toContain("`parameters` of add");
  });
});

describe("requestFields", () => {
  it("sends what is set", () => {
    expect(requestFields(EMPTY_SETTINGS, 64, [])).toEqual({ temperature: 0, top_p: 1, max_tokens: 64 });
    const form = { ...EMPTY_SETTINGS, max_tokens: "9", seed: "7", n: "2", logprobs: true, tools: EXAMPLE_TOOLS };
    expect(requestFields({ ...form, tool_choice: "required" }, 64, []).tool_choice).toBe("required");
    expect(requestFields({ ...form, tools: "", tool_choice: "required" }, 64, []).tool_choice).toBeUndefined();
    const fields = requestFields(form, 64, []);
    expect(fields).toMatchObject({ max_tokens: 9, seed: 7, n: 2, logprobs: true, top_logprobs: 5 });
    expect(fields.tools).toHaveLength(1);
    const row = [{ type: "function", function: { name: "of_the_row" } }];
    expect(requestFields(form, 64, row).tools).toEqual(row);
  });
});

describe("samplingNote", () => {
  it("takes the server's default for an empty temperature", () => {
    expect(samplingNote(EMPTY_SETTINGS)).toContain("most probable");
    expect(samplingNote({ ...EMPTY_SETTINGS, n: "2" })).toContain("are equal");
    for (const temperature of ["", " ", "1"])
      expect(samplingNote({ ...EMPTY_SETTINGS, temperature })).toContain("are sampled");
  });
});
