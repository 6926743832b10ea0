/**
 * One action on each thing of a list, done by this page: the list's verb page by page, and one request for each thing.
 * It goes on while other screens are shown, and ends with the page. (Executions have a verb of their own for this.)
 */

import type { Verbs } from "../contract.gen";
import { Store } from "../lib/store";
import { AskError } from "./errors";
import { type VerbName, ask } from "./link";
import type { Item, List, ListVerb } from "./useAsk";

/** So many things are listed at a time, and so many requests are on their way at once. */
const PAGE = 200;
const WIDE = 4;
/** So many runs of a screen are kept to be shown. */
const KEPT = 3;
/** Errors that the next request would get too. */
const HOPELESS = new Set(["away", "timeout", "no_service", "not_permitted", "valkey_unavailable", "internal"]);

/** A reason, and for how many things it was given. */
export interface Reason {
  says: string;
  times: number;
}
type Reasons = Readonly<Record<string, Reason>>;

export interface Run {
  id: string;
  /** The address of the screen that it was begun on. */
  screen: string;
  title: string;
  /** Which things it is for, in words. */
  which: string;
  status: "running" | "stopped" | "finished" | "failed";
  looked: number;
  done: number;
  /** Things that a service refused to change, by the code of the error. */
  refused: Reasons;
  /** Things that were not asked for, since their state does not admit it. */
  left: Reasons;
  /** Why it failed: the error of the request that ended it. */
  error: AskError | null;
  at: number;
}

export interface Wanted<T> extends Pick<Run, "screen" | "title" | "which"> {
  verb: VerbName;
  pages: (cursor: string | null) => Promise<List<T>>;
  /** The request for one of them, or why there is none. */
  requestFor: (item: T) => Record<string, unknown> | string;
}

export const runs = new Store<readonly Run[]>([]);

export const total = (reasons: Reasons): number => Object.values(reasons).reduce((sum, each) => sum + each.times, 0);

const find = (id: string): Run | undefined => runs.get().find((each) => each.id === id);
const running = (id: string): boolean => find(id)?.status === "running";

function note(id: string, change: (run: Run) => Partial<Run>): void {
  runs.set(runs.get().map((each) => (each.id === id ? { ...each, ...change(each), at: Date.now() } : each)));
}

const counted = (reasons: Reasons, key: string, says: string): Reasons => ({ ...reasons, [key]: { says, times: (reasons[key]?.times ?? 0) + 1 } });

/** Begin a run; it goes on in the background. */
export function begin<T>(wanted: Wanted<T>): void {
  const { screen, title, which } = wanted;
  const id = crypto.randomUUID();
  const others = runs.get().filter((each) => each.screen !== screen || each.status === "running");
  const before = runs.get().filter((each) => !others.includes(each));
  const run: Run = { id, screen, title, which, status: "running", looked: 0, done: 0, refused: {}, left: {}, error: null, at: Date.now() };
  runs.set([run, ...others, ...before.slice(0, KEPT - 1)]);
  void go(id, wanted);
}

/** Stop a run: what it has done stays done, and what is on its way still arrives. */
export function stop(id: string): void {
  if (running(id)) note(id, () => ({ status: "stopped" }));
}

async function go<T>(id: string, wanted: Wanted<T>): Promise<void> {
  try {
    let cursor: string | null = null;
    do {
      const page: List<T> = await wanted.pages(cursor);
      await together(page.items, id, (item) => one(id, wanted, item));
      cursor = page.cursor;
    } while (cursor && running(id));
    if (running(id)) note(id, () => ({ status: "finished" }));
  } catch (problem) {
    note(id, (run) => (run.status === "running" ? { status: "failed", error: AskError.of(problem) } : {}));
  }
}

/** Do it to all items, a few at a time, until the run is stopped or one throws. */
async function together<T>(items: readonly T[], id: string, doIt: (item: T) => Promise<void>): Promise<void> {
  const left = items.values();
  const hand = async (): Promise<void> => {
    for (const item of left) {
      if (!running(id)) return;
      await doIt(item);
    }
  };
  await Promise.all(Array.from({ length: WIDE }, hand));
}

async function one<T>(id: string, { verb, requestFor }: Wanted<T>, item: T): Promise<void> {
  const request = requestFor(item);
  if (typeof request === "string") {
    note(id, (run) => ({ looked: run.looked + 1, left: counted(run.left, request, request) }));
    return;
  }
  try {
    await ask(verb, request as never);
    note(id, (run) => ({ looked: run.looked + 1, done: run.done + 1 }));
  } catch (problem) {
    const error = AskError.of(problem);
    if (HOPELESS.has(error.code)) throw error;
    note(id, (run) => ({ looked: run.looked + 1, refused: counted(run.refused, error.code, `${error.code}: ${error.message}`) }));
  }
}

/** The pages of a verb that lists; of each, what `wanted` admits. */
export const pagesOf =
  <V extends ListVerb>(verb: V, request: Verbs[V]["request"], wanted: (item: Item<V>) => boolean = () => true) =>
  async (cursor: string | null): Promise<List<Item<V>>> => {
    const page = (await ask(verb, { ...request, limit: PAGE, ...(cursor && { cursor }) } as Verbs[V]["request"])) as List<Item<V>>;
    return { items: page.items.filter(wanted), cursor: page.cursor };
  };

/** Who leaves the page is asked first while something goes on. */
window.addEventListener("beforeunload", (event) => {
  if (runs.get().some((each) => each.status === "running")) event.preventDefault();
});
