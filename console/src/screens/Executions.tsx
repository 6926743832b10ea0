/** The list of executions: filters in the URL, pages as one scrolls, and each change as it happens. */

import { useNavigate, useSearch } from "@tanstack/react-router";
import { type ReactNode, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { AskError } from "../bus/errors";
import { type AuditEvent, useEvents } from "../bus/events";
import { ask, link } from "../bus/link";
import { getExecutions } from "../bus/useAsk";
import { type ExecutionRecord, STATES } from "../contract.gen";
import { count, duration, preview } from "../lib/format";
import { SortedRows } from "../lib/sorted";
import { useStore } from "../lib/store";
import { type Column, Table } from "../ui/Table";
import { Ago, Empty, ExecutionLink, Failure, Page, State, VerbButton, Waiting, useNow } from "../ui/parts";
import { submit } from "./actions";

export interface Filters {
  state?: string;
  lane?: string;
  kind?: string;
  tag?: string;
  namespace?: string;
  flow?: string;
}

export function readFilters(search: Record<string, unknown>): Filters {
  const filters: Filters = {};
  for (const name of ["state", "lane", "kind", "tag", "namespace", "flow"] as const) {
    const value = search[name];
    if (typeof value === "string" && value) filters[name] = value;
    if (typeof value === "number") filters[name] = String(value);
  }
  return filters;
}

const PAGE = 200;
/** So many rows fill any screen. */
const FULL = 60;
/** So many new executions are fetched for one batch of events; of more, the newest. */
const MOST_NEW = 200;

function matches(x: ExecutionRecord, f: Filters): boolean {
  const [tag, value] = f.tag ? f.tag.split(/=(.*)/s) : [];
  return (
    (!f.state || x.state === f.state) &&
    (!f.lane || x.lane === f.lane) &&
    (!f.kind || x.kind === f.kind) &&
    (!f.namespace || x.namespace === f.namespace) &&
    (!f.flow || x.flow_id === f.flow) &&
    (tag === undefined || (tag in x.tags && (value === undefined || x.tags[tag] === value)))
  );
}

/** Whether an event alone says that its execution is not in the list, so that it need not be fetched. */
function surelyOut(event: AuditEvent, f: Filters): boolean {
  const { lane, kind } = event.data ?? {};
  return (
    (f.namespace !== undefined && event.namespace !== f.namespace) ||
    (f.lane !== undefined && lane !== undefined && lane !== f.lane) ||
    (f.kind !== undefined && kind !== undefined && kind !== f.kind) ||
    (f.state !== undefined && event.to !== null && event.to !== f.state)
  );
}

/** The uuid7 part of an id sorts by creation; the partition before it does not. */
const order = (id: string): string => id.slice(id.indexOf("-") + 1);

interface Loaded {
  rows: readonly ExecutionRecord[];
  cursor: string | null;
  error: AskError | null;
  first: boolean;
}

function useExecutions(filters: Filters): Loaded & { more: () => void } {
  const { status, epoch } = useStore(link);
  const key = JSON.stringify(filters);
  const [state, setState] = useState<Loaded>({ rows: [], cursor: null, error: null, first: true });
  const busy = useRef(false);
  const generation = useRef(0);
  const rows = useRef(new SortedRows<ExecutionRecord>((x) => x.execution_id, order));
  const wanted = useRef(new Set<string>());
  const fetching = useRef(false);

  const load = useCallback(
    async (cursor: string | null): Promise<void> => {
      const mine = generation.current;
      const { flow, ...rest } = JSON.parse(key) as Filters;
      busy.current = true;
      try {
        const page = await ask("execution.list", {
          ...(rest as object),
          ...(flow && { flow_id: flow }),
          ...(cursor && { cursor }),
          limit: PAGE,
        });
        if (mine !== generation.current) return;
        if (!cursor) rows.current.clear();
        for (const each of page.items) rows.current.put(each);
        setState({ rows: rows.current.snapshot(), cursor: page.cursor, error: null, first: false });
      } catch (error) {
        if (mine !== generation.current) return;
        const known = error instanceof AskError ? error : new AskError("internal", String(error));
        if (known.code !== "away") setState((old) => ({ ...old, error: known, first: false }));
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
    const parsed = JSON.parse(key) as Filters;
    try {
      while (wanted.current.size) {
        const mine = generation.current;
        const ids = [...wanted.current].slice(-MOST_NEW);
        wanted.current.clear();
        const found = await getExecutions(ids);
        if (mine !== generation.current) break;
        const there = new Set(found.map((each) => each.execution_id));
        for (const each of found) {
          if (matches(each, parsed)) rows.current.put(each);
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
    const parsed = JSON.parse(key) as Filters;
    for (const event of events) {
      if (event.entity !== "execution") continue;
      const known = rows.current.has(event.id);
      if (known) wanted.current.add(event.id);
      else if (event.event === "created" || parsed.state !== undefined) {
        if (!surelyOut(event, parsed)) wanted.current.add(event.id);
      }
    }
    if (wanted.current.size) void refresh();
  });

  // A page may be short: with a filter, it says what one bounded look has found. Look on until the screen is full.
  useEffect(() => {
    if (status === "open" && state.cursor && state.rows.length < FULL && !busy.current) void load(state.cursor);
  }, [load, state, status]);

  const more = useCallback(() => {
    if (!busy.current && state.cursor) void load(state.cursor);
  }, [load, state.cursor]);

  return { ...state, more };
}

function Took({ of }: { of: ExecutionRecord }): ReactNode {
  const now = useNow();
  if (!of.started_at) return <span className="faint">–</span>;
  return <>{duration((of.finished_at ?? Math.max(now, of.started_at)) - of.started_at)}</>;
}

const COLUMNS: Column<ExecutionRecord>[] = [
  { name: "State", width: "minmax(8.2rem, 9.5rem)", cell: (x) => <State of={x.state} reason={x.reason} /> },
  { name: "Kind", width: "minmax(5.5rem, 10rem)", cell: (x) => <strong>{x.kind}</strong> },
  { name: "Id", width: "8.6rem", cell: (x) => <ExecutionLink id={x.execution_id} />, wide: true },
  { name: "Lane", width: "minmax(4rem, 5.5rem)", cell: (x) => x.lane, wide: true },
  {
    name: "Attempt",
    width: "4.2rem",
    numeric: true,
    wide: true,
    cell: (x) => (x.attempt_index ? `${x.attempt_index} / ${x.max_attempts}` : <span className="faint">–</span>),
  },
  { name: "Took", width: "4.6rem", numeric: true, wide: true, cell: (x) => <Took of={x} /> },
  { name: "Created", width: "5.2rem", numeric: true, cell: (x) => <Ago at={x.created_at} /> },
  {
    name: "Input, or why it failed",
    width: "minmax(8rem, 1fr)",
    wide: true,
    cell: (x) =>
      x.failure && x.state !== "completed" ? (
        <span className="bad-text">{preview(x.failure["reason"] ?? x.failure)}</span>
      ) : (
        <span className="mono faint">{preview(x.input)}</span>
      ),
  },
];

export function Executions(): ReactNode {
  const filters = useSearch({ from: "/executions" });
  const navigate = useNavigate();
  const { rows, cursor, error, first, more } = useExecutions(filters);
  const set = (change: Partial<Filters>): void =>
    void navigate({
      to: "/executions",
      replace: true,
      search: Object.fromEntries(Object.entries({ ...filters, ...change }).filter(([, value]) => value)),
    });
  const any = Object.keys(filters).length > 0;
  const columns = useMemo(() => COLUMNS, []);
  return (
    <Page
      title="Executions"
      extra={
        <VerbButton verb="execution.create" kind="primary" onClick={() => submit((id) => void navigate({ to: "/executions/$id", params: { id } }))}>
          Submit
        </VerbButton>
      }
    >
      <div className="filters" role="search" aria-label="Filters">
        <div className="chips" role="group" aria-label="State">
          <button type="button" aria-pressed={!filters.state} onClick={() => set({ state: undefined })}>
            all
          </button>
          {STATES.map((each) => (
            <button key={each} type="button" aria-pressed={filters.state === each} onClick={() => set({ state: filters.state === each ? undefined : each })}>
              <State of={each} />
            </button>
          ))}
        </div>
        <div className="inputs">
          <Filter name="kind" label="Kind" value={filters.kind} set={set} search />
          <Filter name="lane" label="Lane" value={filters.lane} set={set} />
          <Filter name="tag" label="Tag" hint="name or name=value" value={filters.tag} set={set} />
          <Filter name="namespace" label="Namespace" value={filters.namespace} set={set} />
          <Filter name="flow" label="Flow" hint="id" value={filters.flow} set={set} />
          {any ? (
            <button type="button" className="quiet" onClick={() => void navigate({ to: "/executions", search: {} })}>
              clear
            </button>
          ) : null}
        </div>
      </div>
      {error ? <Failure error={error} /> : null}
      {first ? (
        <Waiting />
      ) : (
        <Table
          tall
          label="Executions"
          columns={columns}
          rows={rows}
          idOf={(x) => x.execution_id}
          onOpen={(x) => void navigate({ to: "/executions/$id", params: { id: x.execution_id } })}
          onEnd={more}
          empty={
            cursor ? (
              <Empty title="Looking further back">Nothing among the newest matches.</Empty>
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

function Filter(props: {
  name: keyof Filters;
  label: string;
  hint?: string;
  value: string | undefined;
  set: (change: Partial<Filters>) => void;
  search?: boolean;
}): ReactNode {
  const [text, setText] = useState(props.value ?? "");
  useEffect(() => setText(props.value ?? ""), [props.value]);
  const { name, set, value } = props;
  useEffect(() => {
    if (text === (value ?? "")) return;
    const timer = setTimeout(() => set({ [name]: text || undefined }), 250);
    return () => clearTimeout(timer);
  });
  return (
    <label className="filter">
      <span>{props.label}</span>
      <input
        value={text}
        placeholder={props.hint ?? "any"}
        data-search={props.search ? "" : undefined}
        onChange={(event) => setText(event.target.value.trim())}
        spellCheck={false}
        autoComplete="off"
      />
    </label>
  );
}
