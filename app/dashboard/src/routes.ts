// The pages in the header and the command palette, with the scope that each one needs.

export interface NavPage {
  name: string;
  to: string;
  scope: string;
  /** Path prefixes of its sub-pages; by default its own path. */
  below?: string[];
}

export const NAV_PAGES: NavPage[] = [
  { name: "Jobs", to: "/ui/", scope: "jobs:read", below: ["/ui/jobs", "/ui/compare", "/ui/new"] },
  { name: "Files", to: "/ui/files", scope: "files:read" },
  { name: "Models", to: "/ui/models", scope: "models:read" },
  { name: "Evals", to: "/ui/evals", scope: "jobs:read" },
  { name: "Playground", to: "/ui/playground", scope: "inference" },
  { name: "Usage", to: "/ui/usage", scope: "models:read" },
  { name: "Workers", to: "/ui/workers", scope: "jobs:read" },
  { name: "Webhooks", to: "/ui/webhooks", scope: "webhooks:read" },
  { name: "API keys", to: "/ui/keys", scope: "admin" },
  { name: "Audit log", to: "/ui/audit", scope: "admin" },
];
