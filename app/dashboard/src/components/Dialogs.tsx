// Dialogs: the base component, confirmations, the command palette and the list of shortcuts.
import type { ComponentChildren } from "preact";
import { useContext, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { type ApiError, get, JOBS, query } from "../api";
import type { Problem } from "../formProblems";
import { useLocation } from "../root";
import { NAV_PAGES } from "../routes";
import { SessionContext } from "../session";
import type { Job, Page } from "../types";
import { FormErrors } from "./FormErrors";
import { CodeBlock, ErrorNotice } from "./primitives";

const TYPING_MS = 120;
const NONE: Problem[] = [];
const NEW_JOB = { name: "New job", to: "/ui/new", scope: "jobs:write" };

export function Dialog({ title, close, children }: { title: string; close: () => void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  // A layout effect opens it before the next key is handled, so text typed right after the shortcut goes to the dialog.
  useLayoutEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog
      ref={dialog}
      aria-label={title}
      onClose={close}
      onClick={(event) => event.target === dialog.current && dialog.current?.close()}
    >
      <div class="dialog">{children}</div>
    </dialog>
  );
}

/** Asks for confirmation of an action that cannot be undone. */
export function ConfirmDialog({
  title,
  text,
  action,
  act,
  close,
}: {
  title: string;
  text: string;
  action: string;
  act: () => void;
  close: () => void;
}) {
  return (
    <Dialog title={title} close={close}>
      <h2>{title}</h2>
      <p>{text}</p>
      <div class="row end">
        <button type="button" onClick={close}>
          Go back
        </button>
        <button
          type="button"
          class="danger"
          onClick={() => {
            act();
            close();
          }}
        >
          {action}
        </button>
      </div>
    </Dialog>
  );
}

interface FormDialogProps {
  title: string;
  /** Label of the button that sends the form. */
  action: string;
  isDisabled?: boolean;
  error: ApiError | undefined;
  send: () => void;
  close: () => void;
  children: ComponentChildren;
}

/** A form in a dialog. A problem of a field with a `path` is shown there, any other one above the buttons. */
export function FormDialog({ title, action, isDisabled = false, error, send, close, children }: FormDialogProps) {
  const submit = (event: Event) => {
    event.preventDefault();
    send();
  };
  return (
    <Dialog title={title} close={close}>
      <h2>{title}</h2>
      <form class="form" onSubmit={submit}>
        <FormErrors
          problems={error ? [error] : NONE}
          focusOn={error}
          rest={(others) => others.length > 0 && error && <ErrorNotice error={error} />}
        >
          {children}
        </FormErrors>
        <div class="row end">
          <button type="button" onClick={close}>
            Close
          </button>
          <button type="submit" class="primary" disabled={isDisabled}>
            {action}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

interface SecretDialogProps {
  title: string;
  name: string;
  secret: string;
  close: () => void;
  /** What the secret is for. */
  children: ComponentChildren;
}

/** Shows a secret that the server returns only once. */
export function SecretDialog({ title, name, secret, close, children }: SecretDialogProps) {
  return (
    <Dialog title={title} close={close}>
      <h2>{title}</h2>
      <p>{children} Copy it now: it is shown only once.</p>
      <CodeBlock title={name} text={secret} />
      <div class="row end">
        <button type="button" class="primary" onClick={close}>
          Done
        </button>
      </div>
    </Dialog>
  );
}

export function CommandPalette({ close }: { close: () => void }) {
  const [text, setText] = useState("");
  const [chosen, setChosen] = useState(0);
  const [jobs, setJobs] = useState<Job[]>([]);
  const { route } = useLocation();
  const scopes = useContext(SessionContext)?.scopes;
  useEffect(() => {
    let current = true;
    const timer = setTimeout(() => {
      get<Page<Job>>(query(JOBS, { limit: 20, search: text.trim().slice(0, 200) })).then(
        (page) => current && setJobs(page.data),
        () => current && setJobs([]),
      );
    }, TYPING_MS);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [text]);
  const results = useMemo(() => {
    const pages = [...NAV_PAGES, NEW_JOB]
      .filter(({ scope }) => scopes?.includes(scope))
      .map(({ name, to }) => ({ name, path: to, note: "" }));
    const named = jobs.map((job) => ({
      name: job.user_provided_suffix ?? job.model,
      path: `/ui/jobs/${job.id}`,
      note: `${job.id} · ${job.status}`,
    }));
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    return [...pages.filter((page) => words.every((word) => page.name.toLowerCase().includes(word))), ...named].slice(
      0,
      12,
    );
  }, [text, jobs, scopes]);
  const go = (path: string) => {
    close();
    route(path);
  };
  const press = (event: KeyboardEvent) => {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (move) setChosen((old) => (old + move + results.length) % Math.max(1, results.length));
    else if (event.key === "Enter" && results[chosen]) go(results[chosen].path);
    else return;
    event.preventDefault();
  };
  return (
    <Dialog title="Go to" close={close}>
      <input
        class="wide"
        aria-label="Go to a page or a job"
        placeholder="Go to a page or a job"
        role="combobox"
        aria-expanded="true"
        aria-controls="palette"
        aria-activedescendant={results[chosen] ? `palette-${chosen}` : undefined}
        value={text}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setChosen(0);
        }}
        onKeyDown={press}
      />
      <ul id="palette" class="palette" role="listbox" aria-label="Pages and jobs">
        {results.map((result, index) => (
          <li
            key={result.path}
            id={`palette-${index}`}
            role="option"
            aria-selected={index === chosen}
            onClick={() => go(result.path)}
          >
            <span>{result.name}</span> <small>{result.note}</small>
          </li>
        ))}
      </ul>
      {!results.length && <p>No page or job matches.</p>}
    </Dialog>
  );
}

const HELP = [
  ["/", "Search"],
  ["j  k", "Next, previous row or group"],
  ["Enter", "Open"],
  ["x", "Select"],
  ["n", "New job"],
  ["←  →", "Previous, next step (groups)"],
  ["Ctrl Enter", "Send (playground)"],
  ["Esc", "Stop the answers (playground)"],
  ["Ctrl K", "Go to a page or a job"],
  ["?", "Show this list"],
] as const;

export function ShortcutHelp({ close }: { close: () => void }) {
  return (
    <Dialog title="Keyboard shortcuts" close={close}>
      <h2>Keyboard shortcuts</h2>
      <dl class="keys">
        {HELP.map(([key, text]) => (
          <>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{text}</dd>
          </>
        ))}
      </dl>
      <div class="row end">
        <button type="button" onClick={close}>
          Close
        </button>
      </div>
    </Dialog>
  );
}
