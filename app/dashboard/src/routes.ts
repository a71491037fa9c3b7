// The pages in the header and the command palette, with the scope that each one needs.

export interface NavPage {
  name: string;
  to: string;
  scope: string;
  /** Path prefixes of its sub-pages; by default its own path. */
  below?: string[];
  /** Whether wide screens list it in the menu "More", so that the header keeps one row. */
  isInMenu?: boolean;
}

export const NAV_PAGES: NavPage[] = [
  { name: "Jobs", to: "/ui/", scope: "jobs:read", below: ["/ui/jobs", "/ui/compare", "/ui/new"] },
  { name: "Files", to: "/ui/files", scope: "files:read" },
  { name: "Models", to: "/ui/models", scope: "models:read" },
  { name: "Evals", to: "/ui/evals", scope: "jobs:read" },
  { name: "Playground", to: "/ui/playground", scope: "inference" },
  { name: "Usage", to: "/ui/usage", scope: "models:read" },
  { name: "Workers", to: "/ui/workers", scope: "jobs:read", isInMenu: true },
  { name: "Webhooks", to: "/ui/webhooks", scope: "webhooks:read", isInMenu: true },
  { name: "API keys", to: "/ui/keys", scope: "admin", isInMenu: true },
  { name: "Audit log", to: "/ui/audit", scope: "admin", isInMenu: true },
];

/** Whether `path` is this page or one of its sub-pages. */
export function isAt(path: string, { to, below }: NavPage): boolean {
  return (path === "/ui" ? "/ui/" : path) === to || (below ?? [to]).some((prefix) => path.startsWith(prefix));
}
