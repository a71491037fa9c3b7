// One choice of light or dark for the dashboard, the documentation and the API reference. Runs before the page is shown.
// The theme stores its own choice below the path of the site, and reads it after this.
const site = new URL("../", document.currentScript.src).pathname;
const stored = localStorage.getItem("grouptune-theme");
if (stored === "light" || stored === "dark") {
  const scheme = stored === "dark" ? "slate" : "default";
  const color = { media: `(prefers-color-scheme: ${stored})`, scheme, primary: "indigo", accent: "indigo" };
  localStorage.setItem(`${site}.__palette`, JSON.stringify({ index: stored === "dark" ? 1 : 0, color }));
}
addEventListener("change", ({ target }) => {
  if (target.name === "__palette")
    localStorage.setItem("grouptune-theme", target.dataset.mdColorScheme === "slate" ? "dark" : "light");
});
// Links into the API reference from the time when it was at this address.
if (location.hash.startsWith("#/")) location.replace(`${site}api/${location.hash}`);

// The search puts its styles into an element, which the content security policy forbids. A style sheet object is allowed.
const append = ShadowRoot.prototype.appendChild;
ShadowRoot.prototype.appendChild = function (node) {
  if (node.localName !== "style") return append.call(this, node);
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(node.textContent);
  this.adoptedStyleSheets.push(sheet);
  return node;
};
