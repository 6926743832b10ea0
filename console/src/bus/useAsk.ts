import { useCallback, useEffect, useRef, useState } from "react";
import type { Verbs } from "../contract.gen";
import { useStore } from "../lib/store";
import { AskError } from "./errors";
import { type AuditEvent, useEvents } from "./events";
import { type VerbName, ask, askMany, link } from "./link";

export interface Answer<T> {
  data: T | null;
  error: AskError | null;
  loading: boolean;
  reload: () => void;
}

/** At most so often is a verb asked again because events came. */
const QUIET_MS = 150;

/**
 * The answer of a verb, asked again whenever an event that matters comes, and after every reconnect.
 *
 * The last answer stays while the next one is on its way, so that nothing jumps. `matters` says which events change it,
 * and `after` how many milliseconds later: longer for what is written down only some time after the event.
 */
export function useAsk<V extends VerbName>(
  verb: V,
  request: Verbs[V]["request"] | null,
  matters: (event: AuditEvent) => boolean = () => false,
  after: number = QUIET_MS,
): Answer<Verbs[V]["reply"]> {
  const key = request === null ? null : JSON.stringify(request);
  return useLoad(
    useCallback(() => (key === null ? null : ask(verb, JSON.parse(key) as Verbs[V]["request"])), [verb, key]),
    matters,
    after,
  );
}

/** The verbs whose reply is a page of a list. */
export type ListVerb = { [V in VerbName]: Verbs[V]["reply"] extends { items: unknown[]; cursor: string | null } ? V : never }[VerbName];
export type Item<V extends ListVerb> = Verbs[V]["reply"] extends { items: (infer T)[] } ? T : never;

export interface List<T> {
  items: T[];
  /** Not null: there are more. */
  cursor: string | null;
}

const PAGE = 1000;

/** As `useAsk`, for a verb that lists: the first page, and one page more at each `more`. */
export function useList<V extends ListVerb>(
  verb: V,
  request: Verbs[V]["request"],
  matters: (event: AuditEvent) => boolean,
  after: number = QUIET_MS,
): Answer<List<Item<V>>> & { more: () => void } {
  const key = JSON.stringify(request);
  const most = useRef(PAGE);
  const load = useCallback(async (): Promise<List<Item<V>>> => {
    const list: List<Item<V>> = { items: [], cursor: null };
    do {
      const asked = { ...(JSON.parse(key) as object), limit: PAGE, ...(list.cursor && { cursor: list.cursor }) };
      const page = (await ask(verb, asked as Verbs[V]["request"])) as List<Item<V>>;
      list.items.push(...page.items);
      list.cursor = page.cursor;
    } while (list.cursor && list.items.length < most.current);
    return list;
  }, [verb, key]);
  const answer = useLoad(load, matters, after);
  const { data, reload } = answer;
  const more = useCallback(() => {
    if (!data?.cursor || most.current > data.items.length) return;
    most.current = data.items.length + PAGE;
    reload();
  }, [data, reload]);
  return { ...answer, more };
}

/** So many rows fill any screen. */
const FULL = 60;

/** Of a list, what `wanted` admits, where the verb has no such filter: further pages are asked for until a screen is full. */
export function useSome<T>(answer: Answer<List<T>> & { more: () => void }, wanted: (item: T) => boolean): Answer<List<T>> & { more: () => void } {
  const { data, more } = answer;
  const some = data && { items: data.items.filter(wanted), cursor: data.cursor };
  const wants = some?.cursor && some.items.length < FULL;
  useEffect(() => {
    if (wants) more();
  }, [wants, data, more]);
  return { ...answer, data: some };
}

/** As `useAsk`, for whatever a function loads. The function must be stable: what it depends on makes a new one. */
export function useLoad<T>(load: () => Promise<T> | null, matters: (event: AuditEvent) => boolean, after: number = QUIET_MS): Answer<T> {
  const { status, epoch } = useStore(link);
  const [state, setState] = useState<{ of: unknown; data: T | null; error: AskError | null }>({
    of: null,
    data: null,
    error: null,
  });
  const [turn, setTurn] = useState(0);
  const due = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const asked = useRef(0);
  const busy = useRef(false);
  const again = useRef(false);
  const missed = useRef(false);

  const reload = useCallback(() => setTurn((n) => n + 1), []);

  useEffect(() => {
    if (status !== "open") return;
    const answer = load();
    if (answer === null) return;
    let current = true;
    busy.current = true;
    asked.current = performance.now();
    answer
      .then(
        (data) => current && setState({ of: load, data, error: null }),
        (error: unknown) => {
          const known = AskError.of(error);
          // What could not be asked for a moment leaves what is shown as it was; a typed answer replaces it.
          if (current)
            setState((old) =>
              known.code === "away" && old.of === load ? old : { of: load, data: null, error: known },
            );
        },
      )
      .finally(() => {
        busy.current = false;
        if (again.current && current) {
          again.current = false;
          reload();
        }
      });
    return () => {
      current = false;
    };
  }, [load, turn, status, epoch, reload]);

  useEffect(() => () => clearTimeout(due.current), []);

  const askLater = useCallback((): void => {
    // What is true as soon as the event is heard is asked for at once, if it was not asked just before.
    const wait = after > QUIET_MS ? after : Math.max(0, asked.current + after - performance.now());
    due.current = setTimeout(() => {
      due.current = undefined;
      if (missed.current) {
        missed.current = false;
        askLater();
      }
      if (busy.current) again.current = true;
      else reload();
    }, wait);
  }, [after, reload]);

  useEvents((events) => {
    if (!events.some(matters)) return;
    if (due.current === undefined) askLater();
    else missed.current = after > QUIET_MS;
  });

  // What happened just before this was opened may be written down only now.
  useEffect(() => {
    if (after > QUIET_MS) askLater();
  }, [after, askLater]);

  const fresh = state.of === load;
  return {
    data: fresh ? state.data : null,
    error: fresh ? state.error : null,
    loading: !fresh,
    reload,
  };
}

/** Ask for executions by id, as many as one message takes; those that are gone are left out. */
export async function getExecutions(ids: string[]): Promise<Verbs["execution.get"]["reply"][]> {
  const outcomes = await askMany(
    "execution.get",
    ids.map((execution_id) => ({ execution_id })),
  );
  return outcomes.flatMap((each) => ("ok" in each ? [each.ok] : []));
}
