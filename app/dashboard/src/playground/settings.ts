// Settings of a request: the form's texts, their problems, and the fields that are sent.

export interface SettingsForm {
  system: string;
  temperature: string;
  top_p: string;
  max_tokens: string;
  seed: string;
  n: string;
  logprobs: boolean;
  /** JSON. */
  tools: string;
  tool_choice: "auto" | "required" | "none";
}

export const EMPTY_SETTINGS: SettingsForm = {
  system: "",
  temperature: "0",
  top_p: "1",
  max_tokens: "",
  seed: "",
  n: "1",
  logprobs: false,
  tools: "",
  tool_choice: "auto",
};

export const EXAMPLE_TOOLS = `[
  {
    "type": "function",
    "function": {
      "name": "get_weather",
      "description": "Current weather in a city",
      "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"]
      }
    }
  }
]`;

/** Alternatives that are requested per token: shown on hover. */
const TOP_LOGPROBS = 5;

/** Returns why the tools are invalid; undefined if they are valid or empty. */
export function toolsProblem(text: string): string | undefined {
  if (!text.trim()) return undefined;
  let tools: unknown;
  try {
    tools = JSON.parse(text);
  } catch (problem) {
    return `Invalid JSON: ${(problem as Error).message}`;
  }
  if (!Array.isArray(tools)) return "Tools must be a list: [{...}, ...].";
  for (const [index, tool] of tools.entries()) {
    const { type, function: declared } = (tool ?? {}) as { type?: unknown; function?: Record<string, unknown> };
    if (type !== "function" || !declared) return `Tool ${index + 1} must be {"type": "function", "function": {...}}.`;
    if (typeof declared.name !== "string" || !/^[A-Za-z0-9_-]{1,64}$/.test(declared.name))
      return `Tool ${index + 1} needs a \`name\` of letters, digits, _ and -.`;
    const { parameters } = declared;
    if (
      parameters !== undefined &&
      (parameters === null || typeof parameters !== "object" || Array.isArray(parameters))
    )
      return `The \`parameters\` of ${declared.name} must be a JSON Schema object.`;
  }
  return undefined;
}

/** Returns what the temperature means. The server's default is 1. */
export function samplingNote({ temperature, n }: SettingsForm): string {
  const isSampled = !temperature.trim() || Number(temperature) !== 0;
  if (isSampled) return "Answers are sampled. Set a seed to repeat them.";
  return Number(n) > 1
    ? "At temperature 0 all answers of a model are equal. Raise it to see different ones."
    : "Temperature 0, as in held-out evaluation: the most probable answer.";
}

/** Returns the fields of a request; `tools` replaces the form's, and `maxTokens` is used if the form has none. */
export function requestFields(form: SettingsForm, maxTokens: number, tools: unknown[]): Record<string, unknown> {
  const own = form.tools.trim() && !toolsProblem(form.tools) ? (JSON.parse(form.tools) as unknown[]) : [];
  const declared = tools.length ? tools : own;
  const optional = (name: string, text: string) => (text.trim() ? { [name]: Number(text) } : {});
  return {
    ...optional("temperature", form.temperature),
    ...optional("top_p", form.top_p),
    max_tokens: form.max_tokens.trim() ? Number(form.max_tokens) : maxTokens,
    ...optional("seed", form.seed),
    ...(Number(form.n) > 1 ? { n: Number(form.n) } : {}),
    ...(form.logprobs ? { logprobs: true, top_logprobs: TOP_LOGPROBS } : {}),
    ...(declared.length ? { tools: declared } : {}),
    ...(declared.length && form.tool_choice !== "auto" ? { tool_choice: form.tool_choice } : {}),
  };
}
