/** Views of the list of executions: filters and columns under a name. A view is an address; this browser keeps its own. */

import * as Dialog from "@radix-ui/react-dialog";
import * as Menu from "@radix-ui/react-dropdown-menu";
import { type ReactNode, useState } from "react";
import { Store, useStore } from "../lib/store";
import { Modal } from "../ui/Question";
import type { Filters } from "./filters";

interface View {
  name: string;
  filters: Filters;
}

const KEPT = "penstock.views";
const GIVEN: View[] = [
  { name: "Everything", filters: {} },
  { name: "At work", filters: { state: "leased,running" } },
  { name: "Failed", filters: { state: "failed" } },
  { name: "Tried again", filters: { attempts: "2", columns: "state,kind,id,attempt,created,failure,category" } },
  { name: "Waiting for a signal or an operator", filters: { state: "suspended" } },
];

function read(): View[] {
  try {
    return JSON.parse(localStorage.getItem(KEPT) ?? "[]") as View[];
  } catch {
    return [];
  }
}

const kept = new Store<readonly View[]>(read());

function keep(views: View[]): void {
  localStorage.setItem(KEPT, JSON.stringify(views));
  kept.set(views);
}

export function Views({ filters, open }: { filters: Filters; open: (filters: Filters) => void }): ReactNode {
  const own = useStore(kept);
  const [naming, setNaming] = useState(false);
  return (
    <>
      <Menu.Root modal={false}>
        <Menu.Trigger asChild>
          <button type="button">Views ▾</button>
        </Menu.Trigger>
        <Menu.Portal>
          <Menu.Content className="menu" align="end" sideOffset={4} aria-label="Views">
            {[...GIVEN, ...own].map((each) => (
              <Menu.Item key={each.name} onSelect={() => open(each.filters)}>
                {each.name}
              </Menu.Item>
            ))}
            <Menu.Separator className="line-between" />
            <Menu.Item onSelect={() => setTimeout(() => setNaming(true))}>Save these filters and columns…</Menu.Item>
            {own.map((each) => (
              <Menu.Item key={each.name} className="danger" onSelect={() => keep(own.filter((one) => one !== each))}>
                Forget {each.name}
              </Menu.Item>
            ))}
          </Menu.Content>
        </Menu.Portal>
      </Menu.Root>
      <Modal open={naming} close={() => setNaming(false)} says="view-says">
        <Naming
          save={(name) => {
            keep([...own.filter((each) => each.name !== name), { name, filters }]);
            setNaming(false);
          }}
        />
      </Modal>
    </>
  );
}

function Naming({ save }: { save: (name: string) => void }): ReactNode {
  const [name, setName] = useState("");
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        save(name.trim());
      }}
    >
      <Dialog.Title>Save view</Dialog.Title>
      <Dialog.Description id="view-says">This browser keeps it. Its address shows the same to anybody.</Dialog.Description>
      <div className="field">
        <label htmlFor="view-name">Name</label>
        <input id="view-name" value={name} onChange={(event) => setName(event.target.value)} autoComplete="off" />
      </div>
      <footer>
        <Dialog.Close asChild>
          <button type="button">Cancel</button>
        </Dialog.Close>
        <button type="submit" className="primary" disabled={!name.trim()}>
          Save view
        </button>
      </footer>
    </form>
  );
}
