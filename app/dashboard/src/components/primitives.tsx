// Small components that all views use.
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { ApiError } from "../api";
import { absolute, ago } from "../format";

const STATES: Record<string, { icon: string; text: string; tone: string }> = {
  validating_files: { icon: "◌", text: "Validating", tone: "wait" },
  queued: { icon: "◔", text: "Queued", tone: "wait" },
  running: { icon: "▶", text: "Running", tone: "run" },
  paused: { icon: "❙❙", text: "Paused", tone: "hold" },
  succeeded: { icon: "✓", text: "Succeeded", tone: "good" },
  failed: { icon: "✕", text: "Failed", tone: "bad" },
  cancelled: { icon: "⊘", text: "Cancelled", tone: "mute" },
  in_progress: { icon: "▶", text: "Running", tone: "run" },
  completed: { icon: "✓", text: "Completed", tone: "good" },
  canceled: { icon: "⊘", text: "Canceled", tone: "mute" },
  uploaded: { icon: "◌", text: "Validating", tone: "wait" },
  processed: { icon: "✓", text: "Ready", tone: "good" },
  unanswered: { icon: "⚠", text: "No answers", tone: "hold" },
  error: { icon: "✕", text: "Has errors", tone: "bad" },
};

export function StatusBadge({ value }: { value: string }) {
  const state = STATES[value] ?? { icon: "•", text: value, tone: "mute" };
  return (
    <span class={`pill ${state.tone}`}>
      <span aria-hidden="true">{state.icon}</span> {state.text}
    </span>
  );
}

/** A time such as "5 min. ago" that updates itself, with the exact time on hover. */
export function RelativeTime({ at }: { at: number | null | undefined }) {
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((old) => old + 1), 10_000);
    return () => clearInterval(timer);
  }, []);
  if (at === null || at === undefined) return <span>–</span>;
  return (
    <time dateTime={new Date(at * 1000).toISOString()} title={absolute(at)}>
      {ago(at)}
    </time>
  );
}

export function ErrorNotice({ error, retry }: { error: ApiError; retry?: () => void }) {
  return (
    <div class="notice bad" role="alert">
      <strong>Something went wrong.</strong> {error.message}
      {retry && (
        <button type="button" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

export function Loading({ what }: { what: string }) {
  return (
    <p class="loading" role="status">
      Loading {what} …
    </p>
  );
}

export function EmptyState({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <section class="empty">
      <h2>{title}</h2>
      {children}
    </section>
  );
}

export function CopyButton({ text, label = "Copy" }: { text: string; label?: string }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => setDone(false), 2000);
    return () => clearTimeout(timer);
  }, [done]);
  return (
    <button
      type="button"
      class="small"
      onClick={() => void navigator.clipboard.writeText(text).then(() => setDone(true))}
    >
      <span aria-live="polite">{done ? "Copied ✓" : label}</span>
    </button>
  );
}

export function CodeBlock({ text, title }: { text: string; title?: string }) {
  return (
    <figure class="code">
      <figcaption>
        <span>{title}</span>
        <CopyButton text={text} />
      </figcaption>
      <pre tabIndex={0}>{text}</pre>
    </figure>
  );
}

export function Meter({ share, label }: { share: number; label: string }) {
  return (
    <span class="bar" role="img" aria-label={label}>
      <span style={{ width: `${Math.min(100, Math.max(0, share * 100))}%` }} />
    </span>
  );
}

export function SourceChip({ source }: { source: string }) {
  return <span class={`chip ${source}`}>{source.replace("_", "-")}</span>;
}

/** Sets the window's title while a view is mounted. */
export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · Grouptune`;
  }, [title]);
}
