// The playground: asks several models the same prompt, side by side.
import { useContext, useEffect, useRef, useState } from "preact/hooks";
import { EmptyState, ErrorNotice, Loading, useTitle } from "../components/primitives";
import { useGet } from "../liveData";
import { isBase, type PromptSource, playgroundPath } from "../modelNames";
import { useLocation } from "../root";
import { SessionContext, useCan } from "../session";
import { useShortcuts } from "../shortcuts";
import type { Model } from "../types";
import { AddColumn, ColumnHeads, MAX_COLUMNS } from "./ColumnHeads";
import { type Prompt, type RequestSettings, useConversation } from "./conversation";
import { RoundView } from "./RoundView";
import { RowPicker } from "./RowPicker";
import { templateFields, useRowSource, withCallIds } from "./rowSource";
import { SettingsPanel } from "./SettingsPanel";
import { EMPTY_SETTINGS, requestFields, toolsProblem } from "./settings";

const DEFAULT_MAX_TOKENS = 512;
const LAST_LINE = 2_000_000_000;

export function Playground() {
  useTitle("Playground");
  const session = useContext(SessionContext);
  const mayAsk = useCan("inference");
  const { value, error, reload } = useGet<{ data: Model[] }>("/v1/models");
  if (!mayAsk)
    return (
      <EmptyState title="Your key may not ask models">
        <p>The playground requires a key with the scope inference. Sign in with another key.</p>
      </EmptyState>
    );
  if (error) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the models" />;
  if (!session?.has_engine) return <NoEngine />;
  if (!value.data.length) return <NoModels />;
  return <Columns models={value.data} />;
}

function NoEngine() {
  return (
    <EmptyState title="No inference engine">
      <p>
        This server has no process that runs models for inference. <code>grouptune up</code> starts one. In a
        deployment, start the embedded engine (<code>python -m worker.serving</code>) or vLLM, and set{" "}
        <code>GROUPTUNE_SERVE_URL</code> to its URL.
      </p>
    </EmptyState>
  );
}

function NoModels() {
  return (
    <EmptyState title="No models yet">
      <p>
        Run this on the server: <code>grouptune models pull smollm2-135m-instruct</code>. Then{" "}
        <a href="/ui/new">create a job</a>, and compare the model that it trains with the base model here.
      </p>
    </EmptyState>
  );
}

/** Returns the models to start with: the newest trained model next to its base, else the first base model. */
function firstModels(models: Model[]): string[] {
  const newest = models.find((model) => !isBase(model) && model.step === null);
  return newest?.base_model ? [newest.base_model, newest.id] : models.slice(0, 1).map((model) => model.id);
}

/** The state in the URL: the models of the columns, and the row that is the first prompt. */
function useAddress(models: Model[]) {
  const { url, route } = useLocation();
  const search = new URLSearchParams(url.split("?")[1]);
  const named = [...new Set(search.getAll("model"))].slice(0, MAX_COLUMNS);
  const columns = named.length ? named : firstModels(models);
  const job = search.get("job");
  const part = search.get("part") === "training" ? "training" : "heldout";
  const row = Math.min(LAST_LINE, Math.max(1, Math.floor(Number(search.get("row"))) || 1));
  const source: PromptSource | undefined = job ? { job, part, row } : undefined;
  const go = (newColumns: string[], newSource: PromptSource | undefined) =>
    route(playgroundPath(newColumns, newSource), true);
  return {
    columns,
    source,
    setColumns: (changed: string[]) => go(changed, source),
    setSource: (changed: PromptSource | undefined) => go(columns, changed),
  };
}

function Columns({ models }: { models: Model[] }) {
  const { columns, source, setColumns, setSource } = useAddress(models);
  const [form, setForm] = useState(EMPTY_SETTINGS);
  const [text, setText] = useState("");
  const conversation = useConversation();
  const rows = useRowSource(source);
  const { rounds, isRunning } = conversation;
  const first = rounds[0]?.prompt;
  const maxTokens = first?.maxTokens ?? rows?.maxTokens ?? DEFAULT_MAX_TOKENS;
  const isValid = toolsProblem(form.tools) === undefined;
  /** Settings of a conversation that begins with `prompt`. */
  const settings = ({ asked, maxTokens }: Prompt): RequestSettings => ({
    system: form.system.trim(),
    fieldsOf: (model) => ({
      ...requestFields(form, maxTokens, asked?.row.tools ?? []),
      ...(asked ? templateFields(asked, models, model) : {}),
    }),
    isLimitDefault: !form.max_tokens.trim(),
  });
  const ask = (prompt: Prompt) => {
    if (prompt.asked) conversation.clear();
    conversation.send(prompt, columns, settings(prompt.asked ? prompt : (first ?? prompt)));
    setText("");
  };
  const askRow = () => {
    if (!rows?.row) return;
    const messages = withCallIds(rows.row.messages as unknown as Prompt["messages"]);
    const { row, job, grader } = rows;
    ask({ messages, maxTokens: rows.maxTokens ?? DEFAULT_MAX_TOKENS, asked: { row, job, grader } });
  };
  const send = () => {
    if (isRunning || !isValid) return;
    if (text.trim()) ask({ messages: [{ role: "user", content: text }], maxTokens });
    else if (!rounds.length) askRow();
  };
  return (
    <div class="playground" style={{ "--columns": columns.length }}>
      <div class="title">
        <h1>Playground</h1>
        <div class="row">
          {first && (
            <>
              <button
                type="button"
                disabled={isRunning || !isValid}
                onClick={() => conversation.askAgain(columns, settings(first))}
              >
                Ask again
              </button>
              <button type="button" onClick={() => conversation.clear()}>
                New conversation
              </button>
            </>
          )}
          <AddColumn {...{ models, columns, setColumns }} />
        </div>
      </div>
      <div class="desk">
        <SettingsPanel
          form={form}
          set={(changed) => setForm((old) => ({ ...old, ...changed }))}
          maxTokens={maxTokens}
          hasOwnSystem={first?.asked?.row.messages.some((message) => message.role === "system") ?? false}
          hasOwnTools={Boolean(first?.asked?.row.tools.length)}
        >
          <RowPicker
            {...{ models, columns, source, rows, setSource }}
            ask={askRow}
            isDisabled={isRunning || !isValid}
          />
        </SettingsPanel>
        <div class="talks">
          <ColumnHeads {...{ models, columns, setColumns }} />
          {!rounds.length && <Welcome hasRow={rows !== undefined} />}
          {rounds.map((round, index) => (
            <RoundView
              key={index}
              {...{ round, columns, conversation }}
              isLast={index === rounds.length - 1}
              settings={settings(first ?? round.prompt)}
            />
          ))}
          <Composer {...{ text, setText, send, isRunning, isValid }} stop={() => conversation.stop()} />
        </div>
      </div>
    </div>
  );
}

function Welcome({ hasRow }: { hasRow: boolean }) {
  return (
    <p class="soft welcome">
      {hasRow
        ? "Ask the row, or write a prompt of your own. Every column answers."
        : "Write a prompt. Every column answers it, so you can compare models."}
    </p>
  );
}

interface ComposerProps {
  text: string;
  setText: (text: string) => void;
  send: () => void;
  stop: () => void;
  isRunning: boolean;
  isValid: boolean;
}

function Composer({ text, setText, send, stop, isRunning, isValid }: ComposerProps) {
  const field = useRef<HTMLTextAreaElement>(null);
  useShortcuts({ "/": () => field.current?.focus(), "ctrl-enter": send });
  useEffect(() => field.current?.focus({ preventScroll: true }), []);
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
        field.current?.focus(); // the button is replaced, and a key that is held down must not press the next one
      }}
    >
      <textarea
        ref={field}
        aria-label="Message"
        placeholder="Message to all columns"
        rows={Math.min(8, Math.max(2, text.split("\n").length))}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => event.key === "Escape" && stop()}
      />
      {isRunning ? (
        <button
          key="stop"
          type="button"
          class="danger"
          onClick={() => {
            stop();
            field.current?.focus();
          }}
        >
          ■ Stop
        </button>
      ) : (
        <button key="send" type="submit" class="primary" disabled={!text.trim() || !isValid} title="Ctrl Enter">
          Send <kbd>Ctrl ⏎</kbd>
        </button>
      )}
    </form>
  );
}
