// A conversation with several models at once: each round has one prompt and the answers of every column.
import { useEffect, useMemo, useReducer } from "preact/hooks";
import { ApiError } from "../api";
import { type Answer, addChunk, asMessage, isRunning, newAnswer } from "./answers";
import { type ChatMessage, chatChunks } from "./chatStream";
import type { AskedRow } from "./rowSource";

export interface Prompt {
  messages: ChatMessage[];
  /** `max_tokens` of the conversation that it begins, unless the form has one. */
  maxTokens: number;
  /** The row of a data file that the messages come from; its answers are graded. */
  asked?: AskedRow;
}

/** One request to a model: the first of a round, or one that sends the results of tool calls. */
export interface Turn {
  sent: ChatMessage[];
  answer: Answer;
  /** Index of the choice that the conversation continues with. */
  chosen: number;
}

export interface Round {
  prompt: Prompt;
  /** The turns of each column, by model. */
  turns: Map<string, Turn[]>;
}

/** What a request contains in addition to the model and the messages. */
export interface RequestSettings {
  system: string;
  fieldsOf: (model: string) => Record<string, unknown>;
  /** Whether `max_tokens` is a default, so that a smaller one may replace it. */
  isLimitDefault: boolean;
}

const LOST = "Cannot reach the server, or the connection was lost. Check that it is running, and ask again.";

const isTooLong = (problem: unknown): boolean =>
  problem instanceof ApiError && problem.code === "context_length_exceeded";

export class Conversation {
  rounds: Round[] = [];
  private running = new Map<Turn, AbortController>();
  private frame = 0;

  constructor(private readonly changed: () => void) {}

  get isRunning(): boolean {
    return this.running.size > 0;
  }

  /** Adds a round and asks all models. */
  send(prompt: Prompt, models: string[], settings: RequestSettings): void {
    const round: Round = { prompt, turns: new Map() };
    this.rounds.push(round);
    for (const model of models) void this.ask(round, model, [], settings);
  }

  /** Sends the results of tool calls to one model. */
  sendResults(round: Round, model: string, results: ChatMessage[], settings: RequestSettings): void {
    void this.ask(round, model, results, settings);
  }

  /** Asks the models the last prompt again, in place of their answers. */
  askAgain(models: string[], settings: RequestSettings): void {
    const round = this.rounds.at(-1);
    if (!round) return;
    for (const model of models) {
      round.turns.delete(model);
      void this.ask(round, model, [], settings);
    }
  }

  /** Repeats the last request to one model, which failed. */
  retry(round: Round, model: string, settings: RequestSettings): void {
    const turns = round.turns.get(model) ?? [];
    round.turns.set(model, turns.slice(0, -1));
    void this.ask(round, model, turns.at(-1)?.sent ?? [], settings);
  }

  /** Asks one model all prompts that it has not answered, one after the other. */
  async catchUp(model: string, settings: RequestSettings): Promise<void> {
    for (const round of this.rounds) {
      if (round.turns.has(model)) continue;
      const { state } = await this.ask(round, model, [], settings);
      if (state !== "done") return;
    }
  }

  choose(turn: Turn, choice: number): void {
    turn.chosen = choice;
    this.changed();
  }

  stop(): void {
    for (const controller of this.running.values()) controller.abort();
  }

  clear(): void {
    this.stop();
    this.rounds = [];
    this.changed();
  }

  private async ask(round: Round, model: string, sent: ChatMessage[], settings: RequestSettings): Promise<Answer> {
    const turn: Turn = { sent, answer: newAnswer(performance.now()), chosen: 0 };
    const messages = [...this.history(round, model, settings.system), ...sent];
    round.turns.set(model, [...(round.turns.get(model) ?? []), turn]);
    const controller = new AbortController();
    this.running.set(turn, controller);
    this.changed();
    const { answer } = turn;
    const body = { model, messages, ...settings.fieldsOf(model) };
    try {
      await this.stream(answer, body, controller.signal).catch((problem: unknown) => {
        if (!settings.isLimitDefault || !isTooLong(problem)) throw problem;
        // The server counts the prompt's tokens: without max_tokens, the answer may use what the context has left.
        answer.isLimitedByContext = true;
        return this.stream(answer, { ...body, max_tokens: undefined }, controller.signal);
      });
      answer.state = "done";
    } catch (problem) {
      answer.state = controller.signal.aborted ? "stopped" : "failed";
      if (!controller.signal.aborted)
        answer.error = problem instanceof ApiError ? problem : new ApiError(LOST, 0, null, null);
    }
    answer.endedAt = performance.now();
    this.running.delete(turn);
    this.changed();
    return answer;
  }

  private async stream(answer: Answer, body: object, signal: AbortSignal): Promise<void> {
    for await (const chunk of chatChunks(body, signal)) {
      addChunk(answer, chunk, performance.now());
      this.changedSoon();
    }
  }

  /** Returns the messages up to the prompt of `round` and the turns in it. Rounds that the model has not answered are left out. */
  private history(round: Round, model: string, system: string): ChatMessage[] {
    const before = this.rounds.slice(0, this.rounds.indexOf(round));
    const messages = before.flatMap((earlier) => {
      const answered = this.answered(earlier, model);
      return answered.length ? [...earlier.prompt.messages, ...answered] : [];
    });
    const all = [...messages, ...round.prompt.messages, ...this.answered(round, model)];
    const hasOwn = all.some((message) => message.role === "system");
    return system && !hasOwn ? [{ role: "system", content: system }, ...all] : all;
  }

  private answered(round: Round, model: string): ChatMessage[] {
    return (round.turns.get(model) ?? []).flatMap(({ sent, answer, chosen }) => {
      const choice = answer.choices[chosen];
      return choice && !isRunning(answer) ? [...sent, asMessage(choice)] : [];
    });
  }

  /** Draws at most once a frame, however fast chunks arrive. */
  private changedSoon(): void {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.changed();
    });
  }
}

/** A conversation that ends its requests when the view is left. */
export function useConversation(): Conversation {
  const [, redraw] = useReducer((count: number, _: undefined) => count + 1, 0);
  const conversation = useMemo(() => new Conversation(() => redraw(undefined)), []);
  useEffect(() => () => conversation.stop(), []);
  return conversation;
}
