import { describe, expect, it } from "vitest";
import { EMPTY_FORM, formFromRequest, requestFromForm } from "./jobForm";

describe("the form of a job", () => {
  it("sends filled fields only", () => {
    const { body } = requestFromForm({
      ...EMPTY_FORM,
      model: "m",
      training_file: "f",
      method: "supervised",
      n_epochs: "3",
    });
    expect(body).toEqual({
      model: "m",
      training_file: "f",
      method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 3 } } },
    });
  });
  it("reports an invalid grader", () => {
    expect(requestFromForm({ ...EMPTY_FORM, grader: "{" }).error).toMatch(/Invalid JSON/);
  });
  it("clones all settings of a job", () => {
    const method = {
      type: "gft",
      gft: {
        grader: { type: "math" },
        group: { expert: 1, teacher: 2, self: 5 },
        tau: 0.3,
        teacher: {
          model: "large",
          base_url: "https://api.example.com/v1",
          sampling: { temperature: 0.8, max_tokens: 512 },
          budget: { tokens: 5000 },
        },
        kl_coefficient: 0.1,
        sampling: { temperature: 0.7, max_tokens: 64 },
        hyperparameters: { batch_size: "auto", max_steps: 14, lr_schedule: "cosine", lora: { r: 8, alpha: 16 } },
      },
    };
    const chat_template_kwargs = { enable_thinking: false };
    const integrations = [{ type: "wandb", wandb: { project: "sums", tags: ["nightly"] } }, { type: "tensorboard" }];
    const rest = {
      suffix: "s",
      gates: ["g >= 1", "h <= 2"],
      metadata: { team: "a" },
      priority: 3,
      integrations,
      chat_template_kwargs,
    };
    const { body } = requestFromForm(formFromRequest({ model: "m", training_file: "f", method, ...rest }));
    const { batch_size: _, ...hyperparameters } = method.gft.hyperparameters;
    expect(body).toEqual({
      model: "m",
      training_file: "f",
      method: { type: "gft", gft: { ...method.gft, hyperparameters } },
      ...rest,
    });
  });
  it("keeps the settings of pairs", () => {
    const dpo = { hyperparameters: { beta: 0.2, label_smoothing: 0.1, n_epochs: 2 } };
    const form = formFromRequest({ model: "m", training_file: "f", method: { type: "dpo", dpo } });
    expect(requestFromForm(form).body.method).toMatchObject({ type: "dpo", dpo });
    const { supervised } = requestFromForm({ ...form, method: "supervised" }).body.method as Record<string, object>;
    expect(supervised).toMatchObject({ hyperparameters: { n_epochs: 2 } });
    expect(JSON.stringify(supervised)).not.toMatch(/beta|label_smoothing/);
  });
  it("omits settings of other methods", () => {
    const teacher_settings = { ...EMPTY_FORM.teacher_settings, model: "large" };
    const form = { ...EMPTY_FORM, teacher_settings, rest: { kl_coefficient: 0.1, evaluation: { patience: 2 } } };
    const settings = (changed: object) =>
      Object.values(requestFromForm({ ...form, ...changed }).body.method as object)[1];
    expect(settings({})).toMatchObject({ teacher: { model: "large" }, kl_coefficient: 0.1 });
    expect(settings({ teacher: 0 })).not.toHaveProperty("teacher");
    expect(settings({ method: "supervised" })).toEqual({ evaluation: { patience: 2 } });
    expect(settings({ rest: { train_turns: "last" } })).not.toHaveProperty("train_turns");
  });
});
