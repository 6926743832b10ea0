/** The command palette: go to a screen, open what has this id, submit. */

import * as Dialog from "@radix-ui/react-dialog";
import { useNavigate } from "@tanstack/react-router";
import { type ReactNode, useEffect, useState } from "react";
import { Store, useStore } from "../lib/store";
import { SCREENS } from "../screens/list";
import { submit } from "../screens/actions";
import { isTyping } from "./Table";
import { flipTheme } from "./theme";

const shown = new Store(false);
export const openPalette = (): void => shown.set(true);

interface Command {
  name: string;
  note: string;
  run: () => void;
}

const ID = /^\d+-[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export function Palette(): ReactNode {
  const open = useStore(shown);
  useEffect(() => {
    const keys = (event: KeyboardEvent): void => {
      if ((event.metaKey || event.ctrlKey) && event.key === "k") {
        event.preventDefault();
        shown.set(!shown.get());
      } else if (event.key === "/" && !isTyping(event)) {
        const box = document.querySelector<HTMLInputElement>("[data-search]");
        event.preventDefault();
        if (box) box.focus();
        else shown.set(true);
      }
    };
    window.addEventListener("keydown", keys);
    return () => window.removeEventListener("keydown", keys);
  }, []);
  return (
    <Dialog.Root open={open} onOpenChange={(now) => shown.set(now)}>
      <Dialog.Portal>
        <Dialog.Overlay className="overlay" />
        <Dialog.Content className="dialog palette" aria-describedby={undefined}>
          <Dialog.Title className="sr">Commands</Dialog.Title>
          <List />
        </Dialog.Content>
      </Dialog.Portal>
    </Dialog.Root>
  );
}

function List(): ReactNode {
  const navigate = useNavigate();
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const id = text.trim();
  const commands: Command[] = [
    ...(ID.test(id)
      ? [
          { name: `Execution ${id}`, note: "open", run: () => void navigate({ to: "/executions/$id", params: { id } }) },
          { name: `Flow ${id}`, note: "open", run: () => void navigate({ to: "/flows/$id", params: { id } }) },
        ]
      : []),
    ...SCREENS.map((each) => ({ name: each.name, note: "screen", run: () => void navigate({ to: each.path }) })),
    { name: "Submit an execution", note: "action", run: () => submit((to) => void navigate({ to: "/executions/$id", params: { id: to } })) },
    { name: "Dark or light", note: "setting", run: flipTheme },
  ];
  const words = text.toLowerCase();
  const found = commands.filter((each) => each.name.toLowerCase().includes(words));
  const chosen = Math.min(at, found.length - 1);
  const run = (command: Command | undefined): void => {
    if (!command) return;
    shown.set(false);
    command.run();
  };
  return (
    <>
      <input
        role="combobox"
        aria-expanded="true"
        aria-controls="commands"
        aria-activedescendant={found.length ? `command-${chosen}` : undefined}
        aria-label="Command, screen or id"
        placeholder="A screen, a command, or an id"
        value={text}
        onChange={(event) => {
          setText(event.target.value);
          setAt(0);
        }}
        onKeyDown={(event) => {
          const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
          if (step) {
            event.preventDefault();
            setAt(Math.min(found.length - 1, Math.max(0, chosen + step)));
          } else if (event.key === "Enter") run(found[chosen]);
        }}
      />
      <div role="listbox" id="commands" aria-label="Commands">
        {found.map((each, index) => (
          <div
            key={each.name}
            id={`command-${index}`}
            role="option"
            aria-selected={index === chosen}
            onMouseMove={() => setAt(index)}
            onClick={() => run(each)}
          >
            {each.name} <small>{each.note}</small>
          </div>
        ))}
        {found.length === 0 ? <Empty0 /> : null}
      </div>
    </>
  );
}

function Empty0(): ReactNode {
  return (
    <div role="option" aria-selected="false" aria-disabled="true" className="faint">
      nothing has this name
    </div>
  );
}
