// Prompt, sampling, tools of the requests.
import type { ComponentChildren } from "preact";
import { EXAMPLE_TOOLS, type SettingsForm, samplingNote, toolsProblem } from "./settings";
import { ProbabilityLegend } from "./Tokens";

interface Props {
  form: SettingsForm;
  set: (changed: Partial<SettingsForm>) => void;
  /** Used if the form has no number. */
  maxTokens: number;
  /** Whether the first prompt has a system message of its own, which replaces the form's. */
  hasOwnSystem: boolean;
  hasOwnTools: boolean;
  children: ComponentChildren;
}

export function SettingsPanel({ form, set, maxTokens, hasOwnSystem, hasOwnTools, children }: Props) {
  const number = (name: keyof SettingsForm, label: string, rest: Record<string, unknown>) => (
    <label class="field">
      <span>{label}</span>
      <input
        type="number"
        value={form[name] as string}
        onInput={(event) => set({ [name]: event.currentTarget.value })}
        {...rest}
      />
    </label>
  );
  return (
    <aside class="panel settings-panel" aria-label="Settings">
      {children}
      <details open={matchMedia("(min-width: 901px)").matches}>
        <summary>System prompt, sampling and tools</summary>
        <div class="fields">
          <label class="field">
            <span>System prompt</span>
            <textarea
              rows={3}
              value={form.system}
              placeholder="You are a helpful assistant."
              onInput={(event) => set({ system: event.currentTarget.value })}
            />
            {hasOwnSystem && form.system && <small>The row has its own system message, which is used instead.</small>}
          </label>
          <div class="sampling">
            {number("temperature", "Temperature", { min: 0, max: 2, step: 0.1, placeholder: "1" })}
            {number("top_p", "Top p", { min: 0, max: 1, step: 0.05, placeholder: "1" })}
            {number("max_tokens", "Max tokens", { min: 1, placeholder: String(maxTokens) })}
            {number("seed", "Seed", { min: 0, placeholder: "any" })}
            {number("n", "Answers", { min: 1, max: 16, placeholder: "1" })}
          </div>
          <small>{samplingNote(form)}</small>
          <label class="row">
            <input
              type="checkbox"
              checked={form.logprobs}
              onChange={(event) => set({ logprobs: event.currentTarget.checked })}
            />
            Colour tokens by probability
          </label>
          {form.logprobs && <ProbabilityLegend />}
          <ToolsField {...{ form, set, hasOwnTools }} />
        </div>
      </details>
    </aside>
  );
}

const CHOICES = { auto: "the model decides", required: "must call one", none: "must not call any" };

function ToolsField({ form, set, hasOwnTools }: Pick<Props, "form" | "set" | "hasOwnTools">) {
  const text = form.tools;
  const problem = toolsProblem(text);
  return (
    <details open={Boolean(problem)}>
      <summary>Tools{text.trim() && !problem ? ` (${(JSON.parse(text) as unknown[]).length})` : ""}</summary>
      <textarea
        aria-label="Tools (JSON)"
        rows={Math.min(16, Math.max(4, text.split("\n").length))}
        spellcheck={false}
        value={text}
        placeholder='[{"type": "function", "function": {...}}]'
        onInput={(event) => set({ tools: event.currentTarget.value })}
      />
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {hasOwnTools && text.trim() && <small>The row has its own tools, which are used instead.</small>}
      {(text.trim() || hasOwnTools) && (
        <label class="field">
          <span>Tool choice</span>
          <select
            value={form.tool_choice}
            onChange={(event) => set({ tool_choice: event.currentTarget.value as SettingsForm["tool_choice"] })}
          >
            {Object.entries(CHOICES).map(([name, title]) => (
              <option key={name} value={name}>
                {title}
              </option>
            ))}
          </select>
        </label>
      )}
      {!text.trim() && (
        <button type="button" class="small" onClick={() => set({ tools: EXAMPLE_TOOLS })}>
          Insert an example
        </button>
      )}
    </details>
  );
}
