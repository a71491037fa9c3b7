import { describe, expect, it } from "vitest";
import { SCHEMAS } from "../exampleSchemas";
import { jobFields } from "../schemaFields";
import { EMPTY_FORM, formFromRequest, type JobForm, OWN_INPUTS, requestFromForm, withDemonstrations } from "./jobForm";

const send = (form: JobForm) => requestFromForm(form, jobFields(SCHEMAS, form.method, OWN_INPUTS).settings);
const settingsOf = (form: JobForm) => (send(form).body.method as Record<string, unknown>)[form.method];

describe("the form of a job", () => {
  it("sends filled fields only", () => {
    const settings = { hyperparameters: { n_epochs: 3 } };
    const { body } = send({ ...EMPTY_FORM, model: "m", training_file: "f", method: "supervised", settings });
    expect(body).toEqual({ model: "m", training_file: "f", method: { type: "supervised", supervised: settings } });
  });
  it("reports an invalid grader, unless there is none", () => {
    expect(send({ ...EMPTY_FORM, grader: "{" }).error).toMatch(/Invalid JSON/);
    const imitation: JobForm = { ...EMPTY_FORM, method: "supervised", grader: "{" };
    expect(send(imitation).error).toBeUndefined();
    expect(send({ ...imitation, gradesHeldOut: true }).error).toMatch(/Invalid JSON/);
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
    const files = { training_file: "f", validation_file: "v", test_file: "t" };
    const { body } = send(formFromRequest({ model: "m", ...files, method, seed: 7, ...rest }));
    const { batch_size: _, ...hyperparameters } = method.gft.hyperparameters;
    expect(body).toEqual({
      model: "m",
      ...files,
      method: { type: "gft", gft: { ...method.gft, hyperparameters } },
      ...rest,
    });
  });
  it("keeps the settings of pairs, and sends them to no other method", () => {
    const dpo = { hyperparameters: { beta: 0.2, label_smoothing: 0.1, n_epochs: 2 } };
    const form = formFromRequest({ model: "m", training_file: "f", method: { type: "dpo", dpo } });
    expect(settingsOf(form)).toEqual(dpo);
    expect(settingsOf({ ...form, method: "supervised" })).toEqual({ hyperparameters: { n_epochs: 2 } });
  });
  it("leaves the teacher out if groups have no teacher answers", () => {
    const teacher_settings = { ...EMPTY_FORM.teacher_settings, model: "large" };
    const form = { ...EMPTY_FORM, teacher_settings, settings: { teacher: { sampling: { max_tokens: 9 } } } };
    expect(settingsOf(form)).toMatchObject({ teacher: { model: "large", sampling: { max_tokens: 9 } } });
    expect(settingsOf({ ...form, teacher: 0 })).not.toHaveProperty("teacher");
  });
  it("sends the grader that selects demonstrations, to methods that have them", () => {
    const form = withDemonstrations({ ...EMPTY_FORM, method: "supervised" }, "graded");
    expect(settingsOf(form)).toMatchObject({ demonstrations: "graded", grader: { type: "math" } });
    expect(settingsOf({ ...form, method: "reinforcement" })).not.toHaveProperty("demonstrations");
    expect(settingsOf(withDemonstrations(form, "all"))).toEqual({});
  });
});
