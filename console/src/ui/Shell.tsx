/** What is around every screen: the navigation, the state of the connection, and the dialogs. */

import * as Dialog from "@radix-ui/react-dialog";
import { Link, Outlet, useLocation } from "@tanstack/react-router";
import { type ReactNode, useEffect, useState } from "react";
import { link, login, logout, root } from "../bus/link";
import { useStore } from "../lib/store";
import { SCREENS } from "../screens/list";
import { ActDialog } from "./Act";
import { ConfirmDialog } from "./Confirm";
import { Palette, openPalette } from "./Palette";
import { Empty, Page } from "./parts";
import { flipTheme } from "./theme";

export function Shell(): ReactNode {
  const { status, why, epoch } = useStore(link);
  const { pathname } = useLocation();
  useEffect(() => {
    const screen = SCREENS.find((each) => pathname.startsWith(each.path));
    document.title = screen ? `${screen.name} · Penstock` : "Penstock";
  }, [pathname]);
  if (status === "login" || (status === "refused" && epoch === 0)) return <Login why={why} />;
  return (
    <div className="shell">
      <a className="skip" href="#main">
        To the content
      </a>
      <nav className="side" aria-label="Screens">
        <Brand />
        <Links />
        <Foot />
      </nav>
      <div className="topbar">
        <MobileMenu />
        <Brand />
        <button type="button" className="quiet" onClick={openPalette} aria-label="Search and commands">
          ⌕
        </button>
      </div>
      <main id="main" tabIndex={-1}>
        {status !== "open" && epoch > 0 ? (
          <div className="away" role="status">
            <i aria-hidden="true" /> {why ?? "connecting"}. What you see may be old; the console connects again by itself.
          </div>
        ) : null}
        {status !== "open" && epoch === 0 ? (
          <Empty title={status === "away" ? "NATS does not answer" : "Connecting to NATS"}>{why ?? "\u00a0"}</Empty>
        ) : (
          <Outlet />
        )}
      </main>
      <ActDialog />
      <ConfirmDialog />
      <Palette />
    </div>
  );
}

function Brand(): ReactNode {
  return (
    <Link to="/now" className="brand" aria-label="Penstock, now">
      <svg viewBox="0 0 16 16" width="18" height="18" aria-hidden="true">
        <path d="M2 3h4l8 8v3h-4L2 6z" fill="currentColor" />
      </svg>
      Penstock
    </Link>
  );
}

function Links({ onGo }: { onGo?: () => void }): ReactNode {
  return (
    <ul>
      {SCREENS.map((each) => (
        <li key={each.path}>
          <Link to={each.path} activeProps={{ "aria-current": "page" }} onClick={onGo}>
            {each.name}
          </Link>
        </li>
      ))}
    </ul>
  );
}

const SAYS = { open: "live", connecting: "connecting", away: "not connected", refused: "refused", login: "" } as const;

function Foot(): ReactNode {
  const { status, identity } = useStore(link);
  return (
    <div className="side-foot">
      <button type="button" className="search" onClick={openPalette}>
        Search <kbd>⌘K</kbd>
      </button>
      <div className={`conn ${status}`} data-link={status}>
        <i aria-hidden="true" /> {SAYS[status]}
        {status === "open" && root() !== "penstock" ? <span className="faint"> {root()}</span> : null}
      </div>
      {identity ? (
        <div className="who">
          <strong>{identity.name}</strong> <span className="faint">{identity.role}</span>
          <button type="button" className="quiet" onClick={() => void logout()}>
            log out
          </button>
        </div>
      ) : null}
      <button type="button" className="quiet" onClick={flipTheme}>
        dark or light
      </button>
    </div>
  );
}

function MobileMenu(): ReactNode {
  const [open, setOpen] = useState(false);
  return (
    <Dialog.Root open={open} onOpenChange={setOpen}>
      <Dialog.Trigger asChild>
        <button type="button" className="quiet" aria-label="Menu">
          ☰
        </button>
      </Dialog.Trigger>
      <Dialog.Portal>
        <Dialog.Overlay className="overlay" />
        <Dialog.Content className="drawer" aria-describedby={undefined}>
          <Dialog.Title className="sr">Screens</Dialog.Title>
          <Links onGo={() => setOpen(false)} />
          <Foot />
        </Dialog.Content>
      </Dialog.Portal>
    </Dialog.Root>
  );
}

function Login({ why }: { why: string | undefined }): ReactNode {
  const [wrong, setWrong] = useState<string | null>(null);
  return (
    <main className="login">
      <Page title="Penstock" lead="This deployment is secured: who you are is a file of `penstock secure`, users/<name>.json.">
        <label className="drop">
          <span>Your identity file</span>
          <input
            type="file"
            accept=".json,application/json"
            onChange={(event) => {
              const file = event.target.files?.[0];
              void file?.text().then((text) => {
                try {
                  login(text);
                } catch (error) {
                  setWrong(error instanceof Error ? error.message : String(error));
                }
              });
            }}
          />
        </label>
        {wrong ?? why ? (
          <div className="note bad" role="alert">
            {wrong ?? why}
          </div>
        ) : null}
        <p className="faint">It is kept in this tab until the tab is closed, and sent to nobody: the key in it signs what NATS asks.</p>
      </Page>
    </main>
  );
}

export function Missing(): ReactNode {
  return (
    <Page title="There is no such page">
      <Empty title="The address names none of the screens">
        <Link to="/executions">Executions</Link>
      </Empty>
    </Page>
  );
}

