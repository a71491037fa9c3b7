// Light or dark: the choice made in the dashboard or in the documentation, else the system's preference.
const KEY = "grouptune-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const stored = localStorage.getItem(KEY);
  return stored === "dark" || (stored !== "light" && dark.matches);
}

function show() {
  document.documentElement.classList.toggle("dark-mode", isDark());
}

dark.addEventListener("change", show);
show();
addEventListener("click", ({ target }) => {
  if (target.id !== "theme") return;
  localStorage.setItem(KEY, isDark() ? "light" : "dark");
  show();
});
