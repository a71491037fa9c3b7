import { describe, expect, it } from "vitest";
import { flatten, requestSnippets, schemaDefaults } from "./jobSettings";

describe("settings", () => {
  it("flattens nested settings", () => {
    expect(flatten({ a: { b: 1, c: [1, 2] }, d: "x" })).toEqual({ "a.b": "1", "a.c": "[1,2]", d: "x" });
  });
  it("resolves references to schemas", () => {
    const schemas = {
      Method: { properties: { tau: { default: 0.7 }, group: { $ref: "#/x/Group", default: { self: 4 } }, grader: {} } },
      Group: { properties: { expert: { default: 1 }, self: { default: 2 } } },
    };
    expect(schemaDefaults(schemas, "Method")).toEqual({ tau: 0.7, group: { expert: 1, self: 4 } });
  });
  it("quotes values for shell and Python", () => {
    const { curl, python } = requestSnippets(
      { model: "it's", flag: true, none: null, text: "is true, null" },
      "http://h",
    );
    expect(curl).toContain(`"it'\\''s"`);
    expect(python).toContain('"flag": True');
    expect(python).toContain('"none": None');
    expect(python).toContain('"text": "is true, null"');
  });
});
