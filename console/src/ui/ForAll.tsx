/** The actions on all things that a list's filter matches, their progress, and their stop. */

import { type ReactNode } from "react";
import { type Reason, type Run, begin, runs, stop, total } from "../bus/forAll";
import type { VerbName } from "../bus/link";
import type { List } from "../bus/useAsk";
import { count } from "../lib/format";
import { useStore } from "../lib/store";
import type { Offer } from "../screens/actions";
import { act } from "./Act";
import { Offers } from "./Offers";
import { Ago, State } from "./parts";

interface Props<T> {
  /** The address of the screen. */
  screen: string;
  /** What is shown of the list. */
  list: List<T> | null;
  pages: (cursor: string | null) => Promise<List<T>>;
  /** What can be done to one of them. */
  offersOf: (item: T) => Offer[];
  /** Which of that can be done to all, by its verb, and its name. */
  actions: readonly (readonly [verb: VerbName, name: string])[];
  /** What matches, in words. */
  which: string;
}

/** A menu of what can be done to all that match. Each is what can be done to one of them, with the same form. */
export function ForAll<T>({ list, actions, ...props }: Props<T>): ReactNode {
  const of = actions.map(([verb, name]) => offerFor(verb, name, list, props));
  return <Offers of={of} label="Actions for all that match" name="All that match" />;
}

function offerFor<T>(verb: VerbName, name: string, list: List<T> | null, { screen, pages, offersOf, which }: Omit<Props<T>, "list" | "actions">): Offer {
  const offerOf = (item: T): Offer | undefined => offersOf(item).find((each) => each.verb === verb);
  const items = list?.items ?? [];
  const open = items.find((each) => offerOf(each)?.off === null) ?? items[0];
  const first = open === undefined ? undefined : offerOf(open);
  const action = first?.action;
  // Further pages are not known yet: one of them may hold something that admits it.
  const off = !action ? "there is none" : first.off !== null && !list?.cursor ? `none of them admits it: ${first.off}` : null;
  const title = `${name} all`;
  return {
    verb,
    name: title,
    danger: !!first?.danger,
    off,
    go: () => {
      if (!action) return;
      act({
        ...action,
        title,
        says: `${action.says} This page does it to one after the other, until all are done, it is stopped, or the page is closed. Which: ${which}. The lines below do it to one of them.`,
        then: undefined,
        go: (request) =>
          begin<T>({
            screen,
            title,
            which,
            verb,
            pages,
            requestFor: (item) => {
              const offer = offerOf(item);
              return offer?.action && offer.off === null ? { ...request, ...offer.action.request } : (offer?.off ?? "it does not admit it");
            },
          }),
      });
    },
  };
}

/** What goes on for all that match on this screen, and what has just ended. */
export function Runs({ screen }: { screen: string }): ReactNode {
  const shown = useStore(runs).filter((each) => each.screen === screen);
  if (shown.length === 0) return null;
  return (
    <ul className="plain-list bulks" aria-label="Changes to all that match">
      {shown.map((each) => (
        <One key={each.id} of={each} />
      ))}
    </ul>
  );
}

function One({ of: x }: { of: Run }): ReactNode {
  const refused = total(x.refused);
  const left = total(x.left);
  return (
    <li data-run={x.id}>
      <State of={x.status} /> <strong>{x.title}</strong> <span className="faint">{x.which}</span>{" "}
      <span className="num" role="status">
        {count(x.done)} done{refused ? `, ${count(refused)} refused` : ""}
        {left ? `, ${count(left)} left as they were` : ""}, {count(x.looked)} looked at
      </span>{" "}
      <Ago at={x.at} />{" "}
      {x.status === "running" ? (
        <button type="button" onClick={() => stop(x.id)}>
          Stop
        </button>
      ) : null}
      {x.error ? (
        <p className="bad-text">
          It ended at <span className="mono">{x.error.code}</span>: {x.error.message}. What it has done stays done.
        </p>
      ) : null}
      <Why name="Why they were refused" of={Object.values(x.refused)} />
      <Why name="Why they were left" of={Object.values(x.left)} />
    </li>
  );
}

function Why({ name, of }: { name: string; of: Reason[] }): ReactNode {
  if (of.length === 0) return null;
  return (
    <details>
      <summary>{name}</summary>
      <ul className="reasons">
        {of.map((each) => (
          <li key={each.says}>
            {count(each.times)} × {each.says}
          </li>
        ))}
      </ul>
    </details>
  );
}
