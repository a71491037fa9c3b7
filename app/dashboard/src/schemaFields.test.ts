import { describe, expect, it } from "vitest";
import { SCHEMAS } from "./exampleSchemas";
import { format, jobFields, parse, problemOf, type SchemaField, valueAt, withValue } from "./schemaFields";

const fields = jobFields(SCHEMAS, "gft", ["model", "method", "grader", "teacher.model"]);
const field = (path: string): SchemaField => {
  const found = [...fields.settings, ...fields.job].find((one) => one.path === path);
  if (!found) throw new Error(`no field ${path}`);
  return found;
};

describe("fields of a job's schema", () => {
  it("are all settings of the method, nested ones too", () => {
    expect(fields.settings.map(({ path }) => path)).toEqual([
      ...["tau", "kl_coefficient", "teacher.sampling.temperature", "teacher.sampling.max_tokens"],
      ...["sampling.temperature", "sampling.max_tokens"],
      ...["n_epochs", "batch_size", "max_steps", "lr_schedule"].map((name) => `hyperparameters.${name}`),
      ...["r", "alpha", "dropout", "use_dora", "target_modules"].map((name) => `hyperparameters.lora.${name}`),
    ]);
    expect(fields.job.map(({ path, kind }) => [path, kind])).toEqual([
      ["seed", "integer"],
      ["metadata", "pairs"],
      ["gates", "list"],
    ]);
  });
  it("have a title, a kind and a default", () => {
    const rank = { path: "hyperparameters.lora.r", title: "Rank", kind: "integer", byDefault: "16", minimum: 1 };
    expect(field("hyperparameters.lora.r")).toMatchObject(rank);
    expect(field("hyperparameters.n_epochs")).toMatchObject({ kind: "integer", byDefault: "auto", maximum: 50 });
    expect(field("hyperparameters.lr_schedule")).toMatchObject({ kind: "choice", choices: ["constant", "cosine"] });
    expect(field("hyperparameters.lora.target_modules")).toMatchObject({ kind: "list", byDefault: "all-linear" });
    expect(field("tau").help).toBe("A number.");
  });
  it("say what is wrong with a value", () => {
    const problem = (path: string, text: string) => problemOf(field(path), parse(field(path).kind, text));
    expect(problem("tau", "2")).toBe("Enter a number: from 0 to 1.");
    expect(problem("tau", "much")).toBe("Enter a number: from 0 to 1.");
    expect(problem("hyperparameters.n_epochs", "1.5")).toBe("Enter a whole number: from 1 to 50.");
    expect(problem("hyperparameters.lora.dropout", "1")).toBe("Enter a number: at least 0 and less than 1.");
    expect(problem("metadata", "no pair")).toBe("Write one name=value per line.");
    for (const [path, text] of [
      ["tau", ""],
      ["tau", "0.5"],
      ["hyperparameters.n_epochs", "auto"],
      ["hyperparameters.lora.target_modules", "all-linear"],
      ["metadata", "team=a"],
    ] as const)
      expect(problem(path, text)).toBeNull();
  });
});

describe("values of inputs", () => {
  it.each([
    ["integer", "4", 4],
    ["number", "x", "x"],
    ["boolean", "false", false],
    ["list", "q_proj, v_proj", ["q_proj", "v_proj"]],
    ["numbers", "0, 1", [0, 1]],
    ["pairs", "team=search\nwhy=a=b", { team: "search", why: "a=b" }],
    ["json", '{"a": [1]}', { a: [1] }],
    ["text", "  ", undefined],
  ] as const)("are read as %s", (kind, text, value) => {
    expect(parse(kind, text)).toEqual(value);
    if (value !== undefined) expect(parse(kind, format(kind, value))).toEqual(value);
  });
  it("are set at a path and leave no empty objects", () => {
    const changed = withValue({ a: { b: 1 }, c: 2 }, "a.d.e", 3);
    expect(changed).toEqual({ a: { b: 1, d: { e: 3 } }, c: 2 });
    expect(valueAt(changed, "a.d.e")).toBe(3);
    expect(withValue({ a: { b: 1 }, c: 2 }, "a.b", undefined)).toEqual({ c: 2 });
  });
});
