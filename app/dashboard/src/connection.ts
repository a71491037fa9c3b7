// Whether the server can be reached. After a request without a response, the server is probed until it responds.
import { useEffect, useRef, useState } from "preact/hooks";
import { ROOT } from "./root";

const PROBE_MS = 2000;

/** Dispatches `lost` when the server stops responding, and `back` when it responds again. */
const connection = new EventTarget();
let isLost = false;
let isProbing = false;

/** Call this when a request got no response. */
export function checkConnection(): void {
  if (isProbing) return;
  isProbing = true;
  void probe();
}

async function probe(): Promise<void> {
  while (!(await responds())) {
    if (!isLost) change(true);
    await new Promise((resolve) => setTimeout(resolve, PROBE_MS));
  }
  isProbing = false;
  if (isLost) change(false);
}

const responds = (): Promise<boolean> =>
  fetch(`${ROOT}/healthz`, { cache: "no-store" }).then(
    (response) => response.ok,
    () => false,
  );

function change(toLost: boolean): void {
  isLost = toLost;
  connection.dispatchEvent(new Event(toLost ? "lost" : "back"));
}

/** Whether the server is known not to respond. */
export function useIsLost(): boolean {
  const [shown, setShown] = useState(isLost);
  useEffect(() => {
    const update = () => setShown(isLost);
    for (const kind of ["lost", "back"]) connection.addEventListener(kind, update);
    return () => {
      for (const kind of ["lost", "back"]) connection.removeEventListener(kind, update);
    };
  }, []);
  return shown;
}

/** Calls `handle` when the server responds again. */
export function useReconnection(handle: () => void): void {
  const handler = useRef(handle);
  handler.current = handle;
  useEffect(() => {
    const run = () => handler.current();
    connection.addEventListener("back", run);
    return () => connection.removeEventListener("back", run);
  }, []);
}
