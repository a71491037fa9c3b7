// The session: its user, project and scopes.
import { createContext } from "preact";
import { useContext } from "preact/hooks";
import { ROOT } from "./root";
import type { Session } from "./types";

export const SessionContext = createContext<Session | null>(null);

/** Whether the session's key has a scope. Views hide controls that need a missing scope. */
export function useCan(scope: string): boolean {
  return useContext(SessionContext)?.scopes?.includes(scope) ?? false;
}

/** All tabs of a browser share one session. This channel announces a new one to the other tabs. */
const TABS = `grouptune.session${ROOT}`;

/** Announces a new session to the browser's other tabs. */
export function announceSession(session: Session): void {
  const channel = new BroadcastChannel(TABS);
  channel.postMessage(session.key_id);
  channel.close();
}

/** Calls `changed` when another tab signs in with another key. Returns a function that stops it. */
export function onOtherSession(own: Session, changed: () => void): () => void {
  const channel = new BroadcastChannel(TABS);
  channel.onmessage = (event) => event.data !== own.key_id && changed();
  return () => channel.close();
}
