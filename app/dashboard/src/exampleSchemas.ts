// A part of the server's OpenAPI document for tests: three methods that share settings.

import type { Schemas } from "./schemaFields";

const number = (minimum: number, maximum: number, byDefault: number) => ({
  ...{ type: "number", minimum, maximum, default: byDefault, description: "A number." },
});

export const SCHEMAS: Schemas = {
  CreateJob: {
    properties: {
      model: { type: "string" },
      hyperparameters: { deprecated: true, anyOf: [{ $ref: "#/x/Hyperparameters" }, { type: "null" }] },
      seed: { anyOf: [{ type: "integer", minimum: 0 }, { type: "null" }] },
      metadata: { anyOf: [{ type: "object", additionalProperties: { type: "string" } }, { type: "null" }] },
      gates: { type: "array", items: { type: "string" }, default: [] },
      method: { discriminator: { mapping: { gft: "#/x/Gft", dpo: "#/x/Dpo", supervised: "#/x/Supervised" } } },
    },
  },
  Gft: { properties: { type: { const: "gft" }, gft: { $ref: "#/x/GroupMethod" } } },
  Dpo: { properties: { dpo: { $ref: "#/x/PairMethod" } } },
  Supervised: { properties: { supervised: { $ref: "#/x/ImitationMethod" } } },
  GroupMethod: {
    properties: {
      grader: { discriminator: { mapping: {} } },
      tau: number(0, 1, 0.7),
      kl_coefficient: number(0, 10, 0),
      teacher: { anyOf: [{ $ref: "#/x/Teacher" }, { type: "null" }] },
      sampling: { $ref: "#/x/Sampling" },
      hyperparameters: { $ref: "#/x/Hyperparameters" },
    },
  },
  ImitationMethod: {
    properties: {
      train_turns: { type: "string", enum: ["all", "last"], default: "all" },
      demonstrations: { type: "string", enum: ["all", "graded"], default: "all" },
      hyperparameters: { $ref: "#/x/Hyperparameters" },
    },
  },
  PairMethod: {
    properties: {
      hyperparameters: {
        properties: { beta: number(0, 10, 0.1), label_smoothing: number(0, 0.5, 0), n_epochs: { type: "integer" } },
      },
    },
  },
  Teacher: { properties: { model: { type: "string" }, sampling: { $ref: "#/x/Sampling" } } },
  Sampling: {
    properties: {
      temperature: number(0, 2, 1),
      max_tokens: { type: "integer", minimum: 1, maximum: 8192, default: 256 },
    },
  },
  Hyperparameters: {
    properties: {
      n_epochs: {
        anyOf: [
          { type: "integer", minimum: 1, maximum: 50 },
          { const: "auto", type: "string" },
        ],
        default: "auto",
      },
      batch_size: { anyOf: [{ type: "integer" }, { const: "auto" }], default: "auto" },
      max_steps: { anyOf: [{ type: "integer", minimum: 1 }, { type: "null" }] },
      lr_schedule: { type: "string", enum: ["constant", "cosine"], default: "constant" },
      lora: {
        properties: {
          r: { type: "integer", minimum: 1, maximum: 512, default: 16 },
          alpha: { type: "integer", default: 32 },
          dropout: { type: "number", minimum: 0, exclusiveMaximum: 1, default: 0 },
          use_dora: { type: "boolean", default: false },
          target_modules: {
            anyOf: [{ const: "all-linear" }, { type: "array", items: { type: "string" } }],
            default: "all-linear",
          },
        },
      },
    },
  },
};
