// The pages that stand in the header and the palette, and the scope that each needs.

export interface NavPage {
  name: string;
  to: string;
  scope: string;
  /** How the paths of pages below it begin; like its own unless said. */
  below?: string[];
}

export const NAV_PAGES: NavPage[] = [
  { name: "Jobs", to: "/ui/", scope: "jobs:read", below: ["/ui/jobs", "/ui/compare", "/ui/new"] },
  { name: "Files", to: "/ui/files", scope: "files:read" },
  { name: "Models", to: "/ui/models", scope: "models:read" },
  { name: "Workers", to: "/ui/workers", scope: "jobs:read" },
  { name: "Webhooks", to: "/ui/webhooks", scope: "webhooks:read" },
  { name: "API keys", to: "/ui/keys", scope: "admin" },
  { name: "Audit log", to: "/ui/audit", scope: "admin" },
];
