import * as Menu from "@radix-ui/react-dropdown-menu";
import { type ReactNode } from "react";
import { denied, link, refusal } from "../bus/link";
import { useStore } from "../lib/store";
import type { Offer } from "../screens/actions";

/** All that can be done to one thing. What cannot is there too, with the reason. */
export function Offers({ of, label, name = "Actions", compact }: { of: Offer[]; label: string; name?: string; compact?: boolean }): ReactNode {
  useStore(denied);
  useStore(link);
  return (
    <Menu.Root modal={false}>
      <Menu.Trigger asChild>
        <button type="button" className={compact ? "quiet dots" : undefined} aria-label={label}>
          {compact ? "⋯" : `${name} ▾`}
        </button>
      </Menu.Trigger>
      <Menu.Portal>
        <Menu.Content className="menu" align="end" sideOffset={4} aria-label={label}>
          {of.map((each) => {
            const why = refusal(each.verb) ?? each.off;
            return (
              <Menu.Item
                key={each.name}
                className={each.danger ? "danger" : undefined}
                data-verb={each.verb}
                aria-disabled={why ? true : undefined}
                onSelect={(event) => (why ? event.preventDefault() : setTimeout(each.go))}
              >
                {each.name}
                {why ? <small>{why}</small> : null}
              </Menu.Item>
            );
          })}
        </Menu.Content>
      </Menu.Portal>
    </Menu.Root>
  );
}
