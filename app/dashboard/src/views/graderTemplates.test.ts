import { describe, expect, it } from "vitest";
import { callsServer, graderFromTemplate, graderText, readGrader, TEMPLATES, withType } from "./graderTemplates";

describe("graders of the form", () => {
  it("change their type and keep their reference", () => {
    const math = graderFromTemplate(0, ["level", "label"]);
    expect(math.reference).toBe("{{item.label}}");
    const check = withType({ ...math, name: "mine", reference: "{{item.level}}" }, "string_check", ["label"]);
    expect(check).toMatchObject({ type: "string_check", name: "mine", reference: "{{item.level}}", operation: "eq" });
    expect(check).not.toHaveProperty("answer");
    expect(withType(math, "new_type", [])).toEqual({ type: "new_type" });
  });
  it("are read from JSON", () => {
    for (const { make } of TEMPLATES) expect(readGrader(graderText(make("x")))).toEqual(make("x"));
    expect(readGrader("{")).toBeNull();
    expect(readGrader("[]")).toBeNull();
  });
  it("are known to call servers, also as a part", () => {
    const judge = { type: "score_model" };
    expect(callsServer(judge)).toBe(true);
    expect(callsServer({ type: "multi", graders: { a: { type: "math" }, b: judge } })).toBe(true);
    expect(callsServer({ type: "multi", graders: { a: { type: "math" } } })).toBe(false);
    expect(callsServer(null)).toBe(false);
  });
});
