// The path prefix under which a proxy serves this installation. All paths in the code are without it.
import { options } from "preact";
import { useLocation as useFullLocation } from "preact-iso";

/** "" or "/prefix". The script is `<prefix>/ui/assets/*.js`, so no setting is needed. */
export const ROOT = import.meta.env.PROD
  ? new URL(/* @vite-ignore */ "../..", import.meta.url).pathname.replace(/\/$/, "")
  : "";

/** Returns the location without the prefix; `route` adds it. */
export function useLocation() {
  const { path, route, ...rest } = useFullLocation();
  return {
    ...rest,
    path: path.slice(ROOT.length),
    route: (url: string, replace?: boolean) => route(ROOT + url, replace),
  };
}

const OWN = /^\/(ui|v1|docs)\//;
const previous = options.vnode;
/** Adds the prefix to the links and images of all elements. */
options.vnode = (vnode) => {
  if (ROOT && typeof vnode.type === "string") {
    const props = vnode.props as Record<string, unknown>;
    for (const name of ["href", "src"]) {
      const value = props[name];
      if (typeof value === "string" && OWN.test(value)) props[name] = ROOT + value;
    }
  }
  previous?.(vnode);
};
