// The session: its user, project and scopes.
import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Session } from "./types";

export const SessionContext = createContext<Session | null>(null);

/** Whether the session's key has a scope. Views hide controls that need a missing scope. */
export function useCan(scope: string): boolean {
  return useContext(SessionContext)?.scopes?.includes(scope) ?? false;
}
