// The base models of the server and those of the catalogue, kept current while one is downloaded.
import { useEffect } from "preact/hooks";
import { useGet } from "./liveData";
import type { BaseModel, BaseModels } from "./types";

const POLL_MS = 1000;

export const isPulling = ({ pull }: BaseModel): boolean => pull?.status === "queued" || pull?.status === "running";

/** The list, requested again while a download is unfinished. */
export function useBaseModels() {
  const list = useGet<BaseModels>("/v1/base_models");
  const active = (list.value?.data ?? []).some(isPulling);
  useEffect(() => {
    if (!active) return;
    const timer = setInterval(list.reload, POLL_MS);
    return () => clearInterval(timer);
  }, [active]);
  return list;
}
