import { describe, expect, it } from "vitest";
import {
  EMPTY_RUN,
  evalRequest,
  guessPrompt,
  problemOfRun,
  rowShape,
  runFormFrom,
  runProblems,
  runRequests,
  SERVER,
  withDefaults,
} from "./evalForm";

const ITEMS = rowShape({ item: { question: "1+1=", answer: "2" } });
const RUN = withDefaults({ ...EMPTY_RUN, file: "file-1", models: ["base", "ft:base:p:tuned:x"] }, ITEMS);

describe("the request of an eval", () => {
  it("has the fields of the file's items as its schema", () => {
    const { body, problems } = evalRequest(" sums ", ['{"type": "math", "name": "right"}'], ["question", "answer"]);
    expect(problems).toEqual([]);
    expect(body).toEqual({
      name: "sums",
      data_source_config: {
        type: "custom",
        item_schema: { type: "object", properties: { question: {}, answer: {} } },
        include_sample_schema: true,
      },
      testing_criteria: [{ type: "math", name: "right" }],
    });
  });

  it("names a criterion that is no JSON", () => {
    expect(evalRequest("", ["{}", "{"], []).problems.map(({ param }) => param)).toEqual(["testing_criteria.1"]);
  });
});

describe("the requests of runs", () => {
  it("are one for each model", () => {
    const bodies = runRequests({ ...RUN, seed: "7", temperature: "hot" });
    expect(bodies.map(({ data_source }) => (data_source as { model: string }).model)).toEqual(RUN.models);
    expect(bodies[0]?.data_source).toMatchObject({
      source: { type: "file_id", id: "file-1" },
      input_messages: { template: [{ role: "user", content: "{{item.question}}" }] },
      sampling_params: { temperature: "hot", max_completion_tokens: 256, seed: 7 },
    });
    expect(runRequests({ ...RUN, prompt: "" })[0]?.data_source).not.toHaveProperty("input_messages");
  });

  it("include one for the model of another server", () => {
    const other = { server: " https://api.example.com/v1 ", serverModel: "large" };
    const bodies = runRequests({ ...RUN, ...other });
    expect(bodies).toHaveLength(3);
    expect(bodies[2]?.data_source).toMatchObject({ model: "large", base_url: "https://api.example.com/v1" });
    const alone = { ...RUN, ...other, models: [""] };
    expect(runRequests(alone)).toHaveLength(1);
    expect(runProblems(alone, ITEMS)).toEqual([]);
    const params = runProblems({ ...RUN, serverModel: "large" }, ITEMS).map(({ param }) => param);
    expect(params).toEqual(["data_source.base_url"]);
  });

  it("are one for stored answers", () => {
    const source = { type: "file_id", id: "file-1" };
    expect(runRequests({ ...RUN, usesStored: true })).toEqual([
      { name: "stored answers", data_source: { type: "jsonl", source } },
    ]);
  });

  it("follow the file until they are changed", () => {
    expect(RUN).toMatchObject({ prompt: "{{item.question}}", usesStored: false });
    const answered = rowShape({ item: {}, sample: { output_text: "2" } });
    expect(withDefaults(EMPTY_RUN, answered).usesStored).toBe(true);
    expect(withDefaults({ ...EMPTY_RUN, prompt: "Add.", usesStored: false }, answered)).toMatchObject({
      prompt: "Add.",
      usesStored: false,
    });
  });

  it("can be repeated for another model", () => {
    const [first] = runRequests(RUN);
    expect(runFormFrom(first?.data_source as Record<string, unknown>)).toEqual({
      ...RUN,
      models: [""],
      usesStored: undefined,
    });
  });

  it("need a file, models and messages", () => {
    const params = (form: Partial<typeof RUN>) => runProblems({ ...RUN, ...form }, ITEMS).map(({ param }) => param);
    expect(params({})).toEqual([]);
    expect(params({ file: "", models: ["base", ""], prompt: " " })).toEqual([
      "data_source.source",
      "data_source.model.1",
      "data_source.input_messages",
    ]);
    expect(params({ usesStored: true, models: [""], prompt: "" })).toEqual([]);
  });

  it("show a problem at the model that has it", () => {
    const problem = { param: "data_source.model", message: "It does not exist." };
    const form = { ...RUN, server: "https://api.example.com/v1", serverModel: "large" };
    const shown = runRequests(form).map((body) =>
      String(problemOfRun(problem, body, form).param)
        .split(".")
        .at(-1),
    );
    expect(shown).toEqual(["0", "1", SERVER]);
    const other = { ...problem, param: "data_source.source" };
    expect(problemOfRun(other, {}, form).param).toBe("data_source.source");
  });
});

describe("the first row", () => {
  it("shows the fields, and whether there are answers", () => {
    expect(rowShape({ item: { question: "1+1=" }, sample: { output_text: "2" } })).toEqual({
      fields: ["question"],
      hasItems: true,
      hasAnswers: true,
    });
    expect(rowShape({ messages: [], item: 1 })).toEqual({
      fields: ["messages", "item"],
      hasItems: false,
      hasAnswers: false,
    });
  });

  it("suggests a prompt", () => {
    expect(guessPrompt(["id", "answer", "problem"])).toBe("{{item.problem}}");
    expect(guessPrompt(["answer", "sum"])).toBe("{{item.sum}}");
    expect(guessPrompt(["answer"])).toBe("");
  });
});
