// Who is signed in, and what they may do.
import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Session } from "./types";

export const SessionContext = createContext<Session | null>(null);

/** Whether the key behind the session has a scope; a control that needs it is not shown without. */
export function useCan(scope: string): boolean {
  return useContext(SessionContext)?.scopes?.includes(scope) ?? false;
}
