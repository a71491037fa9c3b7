import "./theme";
import "./styles.css";
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ErrorBoundary, LocationProvider, Route, Router } from "preact-iso";
import { type ApiError, get, post, remove, SESSION, signedOut } from "./api";
import { CommandPalette, ShortcutHelp } from "./components/Dialogs";
import { PageLinks } from "./components/PageLinks";
import { Loading } from "./components/primitives";
import { useIsLost, useReconnection } from "./connection";
import { Playground } from "./playground/Playground";
import { ROOT, useLocation } from "./root";
import { announceSession, onOtherSession, SessionContext, useCan } from "./session";
import { useShortcuts } from "./shortcuts";
import { onTheme, theme, toggleTheme } from "./theme";
import type { Session } from "./types";
import { ApiKeys } from "./views/ApiKeys";
import { AuditLog } from "./views/AuditLog";
import { Compare } from "./views/Compare";
import { EvalComparison } from "./views/EvalComparison";
import { EvalPage } from "./views/EvalPage";
import { EvalRunPage } from "./views/EvalRunPage";
import { Evals } from "./views/Evals";
import { FilePage } from "./views/FilePage";
import { Files } from "./views/Files";
import { JobPage } from "./views/JobPage";
import { Jobs } from "./views/Jobs";
import { ModelPage } from "./views/ModelPage";
import { Models } from "./views/Models";
import { NewEval, NewEvalRun } from "./views/NewEval";
import { NewJob } from "./views/NewJob";
import { NotFound } from "./views/NotFound";
import { SignIn } from "./views/SignIn";
import { Usage } from "./views/Usage";
import { Webhooks } from "./views/Webhooks";
import { Workers } from "./views/Workers";

const LINK = "#code=";

/** Removes the one-time code of a sign-in link from the URL and returns it, if the URL has one. */
function takeCode(): string | undefined {
  if (!location.hash.startsWith(LINK)) return undefined;
  const code = location.hash.slice(LINK.length);
  history.replaceState(null, "", location.pathname + location.search);
  return code;
}

function App() {
  const [session, setSession] = useState<Session>();
  const [error, setError] = useState<string>();
  // The restarted server may have ended the session; a page that began without it has none yet.
  useReconnection(() =>
    get<Session>(SESSION).then(
      (current) => {
        setError(undefined);
        setSession(current);
      },
      () => undefined, // another probe follows
    ),
  );
  useEffect(() => {
    const refused = (problem: ApiError) => setError(problem.message);
    const load = () =>
      get<Session>(SESSION).then(setSession, (problem: ApiError) => {
        refused(problem);
        setSession({ object: "dashboard.session", signed_in: false, scopes: [], has_engine: false, trackers: [] });
      });
    const enter = (created: Session) => {
      announceSession(created);
      setSession(created);
    };
    const code = takeCode();
    if (code === undefined) void load();
    else post<Session>(SESSION, { code }).then(enter, (problem: ApiError) => load().then(() => refused(problem)));
    const out = (event: Event) => {
      setError((event as CustomEvent<string>).detail);
      setSession((old) => (old?.signed_in ? { ...old, signed_in: false } : old));
    };
    signedOut.addEventListener("out", out);
    // A link that is pasted into an open page changes only the hash, so the browser does not load the page again.
    const pasted = () => {
      const code = takeCode();
      // The new session may be for another project, so nothing of the page is kept.
      if (code !== undefined)
        post<Session>(SESSION, { code }).then((created) => {
          announceSession(created);
          location.reload();
        }, refused);
    };
    addEventListener("hashchange", pasted);
    return () => {
      signedOut.removeEventListener("out", out);
      removeEventListener("hashchange", pasted);
    };
  }, []);
  // Requests of this tab would belong to the other key's project, whatever the page shows.
  useEffect(() => (session ? onOtherSession(session, () => location.reload()) : undefined), [session]);
  if (!session) return <Loading what="the dashboard" />;
  if (!session.signed_in) {
    const done = (created: Session) => {
      setError(undefined);
      announceSession(created);
      setSession(created);
    };
    return <SignIn problem={error} done={done} />;
  }
  return (
    <SessionContext.Provider value={session}>
      <LocationProvider scope={`${ROOT}/ui`}>
        <Shell
          session={session}
          problem={error}
          leave={() =>
            void remove(SESSION).then(() => {
              setSession({ ...session, signed_in: false });
              setError(undefined);
            })
          }
        />
      </LocationProvider>
    </SessionContext.Provider>
  );
}

function Shell({ session, problem, leave }: { session: Session; problem: string | undefined; leave: () => void }) {
  const [open, setOpen] = useState<"palette" | "help">();
  const [shade, setShade] = useState(theme());
  useEffect(() => onTheme(() => setShade(theme())), []);
  const { route } = useLocation();
  const writesJobs = useCan("jobs:write");
  const isLost = useIsLost();
  useShortcuts({
    "ctrl-k": () => setOpen("palette"),
    "?": () => setOpen("help"),
    n: () => writesJobs && route("/ui/new"),
  });
  return (
    <>
      <a class="skip" href="#main">
        Skip to content
      </a>
      <header class="top">
        <a class="brand" href="/ui/">
          <img src="/ui/icon.svg" alt="" width="24" height="24" /> Grouptune
        </a>
        <PageLinks scopes={session.scopes ?? []} />
        <div class="tools">
          <span class="project" title="Your key's project">
            {session.project}
            {!writesJobs && " · read only"}
          </span>
          <button type="button" onClick={() => setOpen("palette")} title="Go to a page or a job">
            Go to <kbd class="wide-only">Ctrl K</kbd>
          </button>
          <button
            type="button"
            aria-label={shade === "dark" ? "Use light colours" : "Use dark colours"}
            onClick={toggleTheme}
          >
            {shade === "dark" ? "☀" : "☾"}
          </button>
          <a class="button" href="/docs/">
            Docs
          </a>
          <button type="button" class="wide-only" onClick={() => setOpen("help")} aria-label="Keyboard shortcuts">
            ?
          </button>
          <button type="button" onClick={leave}>
            Sign out
          </button>
        </div>
        {isLost && (
          <p class="lost" role="status">
            ⚠ The server does not respond, so this page is out of date. Trying again …
          </p>
        )}
      </header>
      <main id="main" tabIndex={-1}>
        {problem && (
          <p class="notice bad" role="alert">
            {problem} You are still signed in.
          </p>
        )}
        <ErrorBoundary>
          <Router>
            <Route path={`${ROOT}/ui`} component={Jobs} />
            <Route path={`${ROOT}/ui/jobs/:id`} component={JobPage} />
            <Route path={`${ROOT}/ui/jobs/:id/:tab`} component={JobPage} />
            <Route path={`${ROOT}/ui/compare`} component={Compare} />
            <Route path={`${ROOT}/ui/new`} component={NewJob} />
            <Route path={`${ROOT}/ui/files`} component={Files} />
            <Route path={`${ROOT}/ui/files/:id`} component={FilePage} />
            <Route path={`${ROOT}/ui/models`} component={Models} />
            <Route path={`${ROOT}/ui/usage`} component={Usage} />
            <Route path={`${ROOT}/ui/models/:id*`} component={ModelPage} />
            <Route path={`${ROOT}/ui/evals`} component={Evals} />
            <Route path={`${ROOT}/ui/evals/new`} component={NewEval} />
            <Route path={`${ROOT}/ui/evals/:id`} component={EvalPage} />
            <Route path={`${ROOT}/ui/evals/:id/run`} component={NewEvalRun} />
            <Route path={`${ROOT}/ui/evals/:id/compare`} component={EvalComparison} />
            <Route path={`${ROOT}/ui/evals/:id/runs/:run`} component={EvalRunPage} />
            <Route path={`${ROOT}/ui/playground`} component={Playground} />
            <Route path={`${ROOT}/ui/workers`} component={Workers} />
            <Route path={`${ROOT}/ui/webhooks`} component={Webhooks} />
            <Route path={`${ROOT}/ui/keys`} component={ApiKeys} />
            <Route path={`${ROOT}/ui/audit`} component={AuditLog} />
            <Route default component={NotFound} />
          </Router>
        </ErrorBoundary>
      </main>
      {open === "palette" && <CommandPalette close={() => setOpen(undefined)} />}
      {open === "help" && <ShortcutHelp close={() => setOpen(undefined)} />}
    </>
  );
}

// Its address is relative to the first page, and the browser resolves it again on every page.
const icon = document.querySelector<HTMLLinkElement>("link[rel=icon]");
if (icon) icon.href = new URL(icon.href).href;
const root = document.getElementById("app");
if (root) render(<App />, root);
