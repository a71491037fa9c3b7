import { describe, expect, it } from "vitest";
import { modelPage, modelTitle, playgroundPath } from "./modelNames";
import { modelSnippets } from "./modelSnippets";
import type { ModelDetails } from "./types";

const FT = "ft:Qwen/Qwen3-0.6B:default:sums:ab12cd34";

describe("modelTitle", () => {
  it("shortens names of trained models", () => {
    expect(modelTitle(FT)).toBe("sums · ab12cd34");
    expect(modelTitle(`${FT}:ckpt-step-8`)).toBe("sums · step 8 · ab12cd34");
    expect(modelTitle("ft:tiny:default::ab12cd34")).toBe("ab12cd34");
    expect(modelTitle("Qwen/Qwen3-0.6B")).toBe("Qwen/Qwen3-0.6B");
    expect(modelTitle("prod")).toBe("prod");
  });
});

describe("playgroundPath", () => {
  it("names each model once, and the row", () => {
    expect(playgroundPath(["tiny", FT, "tiny", null])).toBe(
      "/ui/playground?model=tiny&model=ft%3AQwen%2FQwen3-0.6B%3Adefault%3Asums%3Aab12cd34",
    );
    expect(playgroundPath(["tiny"], { job: "ftjob-1", part: "training", row: 7 })).toBe(
      "/ui/playground?model=tiny&job=ftjob-1&part=training&row=7",
    );
    expect(modelPage("a/b")).toBe("/ui/models/a%2Fb");
  });
});

describe("modelSnippets", () => {
  const model = { id: FT, base_model: "qwen3-0.6b", rank: 24 } as ModelDetails;
  const texts = (made: ModelDetails, ollama?: string) =>
    Object.fromEntries(modelSnippets(made, "https://gt.example/p", ollama).map(({ title, text }) => [title, text]));

  it("serves the base model under the hub's name", () => {
    const base = { name: "qwen3-0.6b", hub_id: "Qwen/Qwen3-0.6B", revision: "abc" };
    const { vLLM, Python, curl } = texts({ ...model, base } as ModelDetails);
    expect(vLLM).toContain("vllm serve Qwen/Qwen3-0.6B --revision abc --enable-lora --max-lora-rank 32");
    expect(vLLM).toContain(
      "https://gt.example/p/v1/models/ft%3AQwen%2FQwen3-0.6B%3Adefault%3Asums%3Aab12cd34/download",
    );
    expect(vLLM).toContain("--lora-modules Qwen-Qwen3-0.6B-default-sums-ab12cd34=$PWD/");
    expect(Python).toContain('base_url="https://gt.example/p/v1"');
    expect(curl).toContain(FT);
    expect(texts(model).vLLM).toContain("path/to/qwen3-0.6b");
  });

  it("uses a finished export for Ollama", () => {
    expect(texts(model).Ollama).toContain('"format": "ollama"');
    expect(texts(model, "export-1").Ollama).not.toContain('"format"');
    expect(texts(model, "export-1").Ollama).toContain("/v1/exports/export-1/content");
  });

  it("has no other engines for a base model", () => {
    expect(Object.keys(texts({ id: "tiny" } as ModelDetails))).toEqual(["Python", "curl"]);
  });
});
