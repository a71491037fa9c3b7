// Dialogs over the page: questions, the command palette, the keys.
import type { ComponentChildren } from "preact";
import { useContext, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { useLocation } from "preact-iso";
import { get, JOBS, query } from "../api";
import { NAV_PAGES } from "../routes";
import { SessionContext } from "../session";
import type { Job, Page } from "../types";

const TYPING_MS = 120;
const NEW_JOB = { name: "New job", to: "/ui/new", scope: "jobs:write" };

export function Dialog({ title, close, children }: { title: string; close: () => void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  // Before the next key is handled: what is typed right after the shortcut belongs to the dialog.
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

/** Asks before something that cannot be undone. */
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
          Keep it
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
  const found = useMemo(() => {
    const places = [...NAV_PAGES, NEW_JOB]
      .filter(({ scope }) => scopes?.includes(scope))
      .map(({ name, to }) => ({ name, path: to, note: "" }));
    const named = jobs.map((job) => ({
      name: job.user_provided_suffix ?? job.model,
      path: `/ui/jobs/${job.id}`,
      note: `${job.id} · ${job.status}`,
    }));
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    return [...places.filter((one) => words.every((word) => one.name.toLowerCase().includes(word))), ...named].slice(
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
    if (move) setChosen((old) => (old + move + found.length) % Math.max(1, found.length));
    else if (event.key === "Enter" && found[chosen]) go(found[chosen].path);
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
        aria-activedescendant={found[chosen] ? `palette-${chosen}` : undefined}
        value={text}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setChosen(0);
        }}
        onKeyDown={press}
      />
      <ul id="palette" class="palette" role="listbox" aria-label="Pages and jobs">
        {found.map((one, index) => (
          <li
            key={one.path}
            id={`palette-${index}`}
            role="option"
            aria-selected={index === chosen}
            onClick={() => go(one.path)}
          >
            <span>{one.name}</span> <small>{one.note}</small>
          </li>
        ))}
      </ul>
      {!found.length && <p>Nothing is called so.</p>}
    </Dialog>
  );
}

const HELP = [
  ["/", "Find"],
  ["j  k", "Next, previous row or group"],
  ["Enter", "Open"],
  ["x", "Select"],
  ["n", "New job"],
  ["←  →", "Previous, next step (groups)"],
  ["Ctrl K", "Go to a page or a job"],
  ["?", "This list"],
] as const;

export function ShortcutHelp({ close }: { close: () => void }) {
  return (
    <Dialog title="Keys" close={close}>
      <h2>Keys</h2>
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
