// The pages in the header. Wide screens have the less frequent ones in a menu, phones have all in one line that scrolls.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { useLocation } from "../root";
import { isAt, NAV_PAGES, type NavPage } from "../routes";

export function PageLinks({ scopes }: { scopes: string[] }) {
  const { path } = useLocation();
  const nav = useRef<HTMLElement>(null);
  useEffect(() => {
    const [line, current] = [nav.current, nav.current?.querySelector<HTMLElement>("[aria-current]")];
    if (line && current) line.scrollLeft = current.offsetLeft - (line.clientWidth - current.offsetWidth) / 2;
  }, [path]);
  const pages = NAV_PAGES.filter(({ scope }) => scopes.includes(scope));
  const inMenu = pages.filter(({ isInMenu }) => isInMenu);
  return (
    <nav ref={nav} aria-label="Pages">
      {pages
        .filter(({ isInMenu }) => !isInMenu)
        .map((page) => (
          <PageLink key={page.to} page={page} path={path} />
        ))}
      {inMenu.length > 0 && <Menu pages={inMenu} path={path} />}
    </nav>
  );
}

function PageLink({ page, path }: { page: NavPage; path: string }) {
  return (
    <a href={page.to} aria-current={isAt(path, page) ? "page" : undefined}>
      {page.name}
    </a>
  );
}

/** A button that shows the links. It closes with Escape, with a click or a focus elsewhere, and on a new page. */
function Menu({ pages, path }: { pages: NavPage[]; path: string }) {
  const [isOpen, setOpen] = useState(false);
  const menu = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => setOpen(false), [path]);
  // Before the menu is painted: a key that is pressed at once must find the listeners.
  useLayoutEffect(() => {
    if (!isOpen) return;
    const isOutside = (target: EventTarget | null) => target instanceof Node && !menu.current?.contains(target);
    const leave = (event: Event) => isOutside(event.target) && setOpen(false);
    const press = (event: KeyboardEvent) => {
      if (event.key !== "Escape") return;
      setOpen(false);
      button.current?.focus();
    };
    for (const kind of ["pointerdown", "focusin"]) document.addEventListener(kind, leave);
    document.addEventListener("keydown", press);
    return () => {
      for (const kind of ["pointerdown", "focusin"]) document.removeEventListener(kind, leave);
      document.removeEventListener("keydown", press);
    };
  }, [isOpen]);
  return (
    <div ref={menu} class="menu">
      <button
        ref={button}
        type="button"
        class={pages.some((page) => isAt(path, page)) ? "here" : ""}
        aria-expanded={isOpen}
        aria-controls="more-pages"
        onClick={() => setOpen(!isOpen)}
      >
        More <span aria-hidden="true">▾</span>
      </button>
      <div id="more-pages" class={isOpen ? "open" : ""}>
        {pages.map((page) => (
          <PageLink key={page.to} page={page} path={path} />
        ))}
      </div>
    </div>
  );
}
