// The sign-in page.
import { useState } from "preact/hooks";
import { type ApiError, post, SESSION } from "../api";
import { useTitle } from "../components/primitives";
import type { Session } from "../types";

export function SignIn({ problem, done }: { problem: string | undefined; done: (session: Session) => void }) {
  const [key, setKey] = useState("");
  const [refusal, setRefusal] = useState<string>();
  const error = refusal ?? problem;
  const [busy, setBusy] = useState(false);
  useTitle("Sign in");
  const send = (event: Event) => {
    event.preventDefault();
    setBusy(true);
    post<Session>(SESSION, { api_key: key.trim() })
      .then(done, (refused: ApiError) => setRefusal(refused.message))
      .finally(() => setBusy(false));
  };
  return (
    <main class="signin">
      <img src="/ui/icon.svg" alt="" width="56" height="56" />
      <h1>Grouptune</h1>
      <form onSubmit={send}>
        <label for="key">API key</label>
        <input
          id="key"
          type="password"
          autocomplete="current-password"
          placeholder="gt_live_…"
          required
          autofocus
          value={key}
          aria-describedby="key-help"
          aria-invalid={error ? "true" : undefined}
          onInput={(event) => setKey(event.currentTarget.value)}
        />
        {error && (
          <p class="problem" role="alert">
            {error}
          </p>
        )}
        <button type="submit" class="primary" disabled={busy}>
          {busy ? "Signing in …" : "Sign in"}
        </button>
      </form>
      <p id="key-help">
        On the server, run <code>grouptune dashboard</code> to get a sign-in link. Elsewhere, sign in with an API key
        from an administrator, who creates one with <code>grouptune keys create</code>.{" "}
        <a href="/docs/">Documentation</a>
      </p>
    </main>
  );
}
