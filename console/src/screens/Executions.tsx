/** The list of executions: filters in the URL, pages as one scrolls, and each change as it happens. */

import { useNavigate, useSearch } from "@tanstack/react-router";
import { type ReactNode, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { AskError } from "../bus/errors";
import { useEvents } from "../bus/events";
import { ask, link } from "../bus/link";
import { getExecutions } from "../bus/useAsk";
import { type ExecutionFilter, type ExecutionRow, STATES } from "../contract.gen";
import { count, instant } from "../lib/format";
import { SortedRows } from "../lib/sorted";
import { useStore } from "../lib/store";
import { Filter, type FilterProps } from "../ui/Filters";
import { Table } from "../ui/Table";
import { Empty, Failure, Page, State, VerbButton, Waiting } from "../ui/parts";
import { BulkMenu, Bulks } from "./Bulk";
import { Views } from "./Views";
import { submit } from "./actions";
import { Columns, columnsOf } from "./columns";
import { type Filters, canCome, filterOf, matches, rowOf, surelyOut } from "./filters";

const PAGE = 200;
/** So many more at a time as one scrolls on. */
const MORE = 500;
/** So many rows fill any screen. */
const FULL = 60;
/** So many new executions are fetched for one batch of events; of more, the newest. */
const MOST_NEW = 200;

/** The uuid7 part of an id sorts by creation; the partition before it does not. */
const order = (id: string): string => id.slice(id.indexOf("-") + 1);

interface Loaded {
  of: string;
  rows: readonly ExecutionRow[];
  cursor: string | null;
  /** Down to which creation time the rows are complete. */
  lookedTo: number | null;
  error: AskError | null;
  first: boolean;
}

function useExecutions(filter: ExecutionFilter): Loaded & { more: () => void } {
  const { status, epoch } = useStore(link);
  const key = JSON.stringify(filter);
  const [state, setState] = useState<Loaded>({ of: key, rows: [], cursor: null, lookedTo: null, error: null, first: true });
  const busy = useRef(false);
  const generation = useRef(0);
  const rows = useRef(new SortedRows<ExecutionRow>((x) => x.execution_id, order));
  const wanted = useRef(new Set<string>());
  const fetching = useRef(false);

  const load = useCallback(
    async (cursor: string | null): Promise<void> => {
      const mine = generation.current;
      busy.current = true;
      try {
        const page = await ask("execution.search", {
          filter: JSON.parse(key) as ExecutionFilter,
          ...(cursor && { cursor }),
          limit: cursor ? MORE : PAGE,
        });
        if (mine !== generation.current) return;
        if (!cursor) rows.current.clear();
        for (const each of page.items) rows.current.put(each);
        setState({ of: key, rows: rows.current.snapshot(), cursor: page.cursor, lookedTo: page.looked_to, error: null, first: false });
      } catch (error) {
        if (mine !== generation.current) return;
        const known = AskError.of(error);
        if (known.code !== "away") setState((old) => ({ ...old, of: key, error: known, first: false }));
      } finally {
        if (mine === generation.current) busy.current = false;
      }
    },
    [key],
  );

  useEffect(() => {
    generation.current += 1;
    busy.current = false;
    wanted.current.clear();
    if (status === "open") void load(null);
  }, [load, status, epoch]);

  const refresh = useCallback(async (): Promise<void> => {
    if (fetching.current) return;
    fetching.current = true;
    const parsed = JSON.parse(key) as ExecutionFilter;
    try {
      while (wanted.current.size) {
        const mine = generation.current;
        const ids = [...wanted.current].slice(-MOST_NEW);
        wanted.current.clear();
        const found = (await getExecutions(ids)).map(rowOf);
        if (mine !== generation.current) break;
        const there = new Set(found.map((each) => each.execution_id));
        for (const each of found) {
          if (matches(each, parsed) && (!parsed.failure_group || rows.current.has(each.execution_id))) rows.current.put(each);
          else rows.current.remove(each.execution_id);
        }
        for (const id of ids) if (!there.has(id)) rows.current.remove(id);
        setState((old) => ({ ...old, rows: rows.current.snapshot() }));
      }
    } catch {
      // The connection is away: everything is loaded again when it is back.
    } finally {
      fetching.current = false;
    }
  }, [key]);

  useEvents((events) => {
    const parsed = JSON.parse(key) as ExecutionFilter;
    for (const event of events) {
      if (event.entity !== "execution") continue;
      const known = rows.current.has(event.id);
      if (known) wanted.current.add(event.id);
      else if ((event.event === "created" || canCome(parsed)) && !surelyOut(event, parsed)) {
        wanted.current.add(event.id);
      }
    }
    // Only the scheduler knows which group a failure belongs to, and for that it is asked for the newest ones again.
    if (parsed.failure_group && !busy.current && events.some((each) => each.to === "failed")) void load(null);
    if (wanted.current.size) void refresh();
  });

  // A page may be short: with a filter, it says what one bounded look has found. Look on until the screen is full.
  useEffect(() => {
    if (status === "open" && state.cursor && state.of === key && state.rows.length < FULL && !busy.current) void load(state.cursor);
  }, [load, state, status, key]);

  const more = useCallback(() => {
    if (!busy.current && state.cursor && state.of === key) void load(state.cursor);
  }, [load, state, key]);

  return { ...state, more };
}

export function Executions(): ReactNode {
  const filters = useSearch({ from: "/executions" });
  const navigate = useNavigate();
  const filter = useMemo(() => filterOf(filters), [filters]);
  const { rows, cursor, lookedTo, error, first, more } = useExecutions(filter);
  const set = (change: Partial<Filters>): void =>
    void navigate({
      to: "/executions",
      replace: true,
      search: Object.fromEntries(Object.entries({ ...filters, ...change }).filter(([, value]) => value)),
    });
  const { columns: chosen, ...narrowing } = filters;
  const any = Object.keys(narrowing).length > 0;
  const [further, setFurther] = useState(false);
  const columns = useMemo(() => columnsOf(chosen), [chosen]);
  const states = filters.state?.split(",") ?? [];
  const flip = (state: string): void =>
    set({ state: STATES.filter((each) => (each === state ? !states.includes(each) : states.includes(each))).join() || undefined });
  const input = (name: keyof Filters, more: Pick<FilterProps, "label" | "hint" | "search" | "type">): ReactNode => (
    <Filter key={name} value={filters[name]} go={(text) => set({ [name]: text })} {...more} />
  );
  return (
    <Page
      title="Executions"
      extra={
        <>
          <Views filters={filters} open={(view) => void navigate({ to: "/executions", search: view })} />
          <Columns chosen={chosen} set={(names) => set({ columns: names })} />
          <BulkMenu filter={filter} />
          <VerbButton verb="execution.create" kind="primary" onClick={() => submit((id) => void navigate({ to: "/executions/$id", params: { id } }))}>
            Submit
          </VerbButton>
        </>
      }
    >
      <div className="filters" role="search" aria-label="Filters">
        <div className="chips" role="group" aria-label="State">
          <button type="button" aria-pressed={!filters.state} onClick={() => set({ state: undefined })}>
            all
          </button>
          {STATES.map((each) => (
            <button key={each} type="button" aria-pressed={states.includes(each)} onClick={() => flip(each)}>
              <State of={each} />
            </button>
          ))}
        </div>
        <div className="inputs">
          {input("text", { label: "Text", hint: "id, kind or tag", search: true })}
          {input("kind", { label: "Kind", hint: "mail.*" })}
          {input("lane", { label: "Lane" })}
          {input("tag", { label: "Tag", hint: "name=value" })}
          {input("from", { label: "Created from", type: "datetime-local" })}
          {input("until", { label: "Created until", type: "datetime-local" })}
          {Object.entries(FURTHER).map(([name, of]) => (further || filters[name as keyof Filters] ? input(name as keyof Filters, of) : null))}
          <button type="button" className="quiet" aria-expanded={further} onClick={() => setFurther(!further)}>
            {further ? "fewer filters" : "more filters"}
          </button>
          {any ? (
            <button type="button" className="quiet" onClick={() => void navigate({ to: "/executions", search: chosen ? { columns: chosen } : {} })}>
              clear
            </button>
          ) : null}
        </div>
      </div>
      <Bulks />
      {error ? <Failure error={error} /> : null}
      {first ? (
        <Waiting />
      ) : (
        <Table
          tall
          broad={chosen !== undefined}
          label="Executions"
          columns={columns}
          rows={rows}
          idOf={(x) => x.execution_id}
          onOpen={(x) => void navigate({ to: "/executions/$id", params: { id: x.execution_id } })}
          onEnd={more}
          empty={
            cursor ? (
              <Empty title="Looking further back">Nothing matches{lookedTo ? ` among what was created after ${instant(lookedTo)}` : " among the newest"}.</Empty>
            ) : any ? (
              <Empty title="Nothing matches these filters">New executions that match appear here by themselves.</Empty>
            ) : (
              <Empty title="No executions yet">
                Submit one, here or with <code>penstock submit greet '{"{"}"name": "Ada"{"}"}'</code>.
              </Empty>
            )
          }
        />
      )}
      <p className="table-foot faint" role="status">
        {count(rows.length)} {cursor ? "loaded, more as you scroll" : rows.length === 1 ? "execution" : "executions"}
      </p>
    </Page>
  );
}

/** Filters that are shown where one asks for them, or where they have a value. */
const FURTHER: { [name in keyof Filters]: Pick<FilterProps, "label" | "type"> } = {
  category: { label: "Failure category" },
  namespace: { label: "Namespace" },
  attempts: { label: "Attempts, at least", type: "number" },
  most: { label: "Attempts, at most", type: "number" },
  ended: { label: "Ended from", type: "datetime-local" },
  ended_until: { label: "Ended until", type: "datetime-local" },
  flow: { label: "Flow" },
  parent: { label: "Parent" },
  worker: { label: "Held by worker" },
  group: { label: "Failure group" },
};
