/** The filters of the list of executions: as the address has them, as the verbs take them, and as the command line does. */

import type { AuditEvent } from "../bus/events";
import type { ExecutionFilter, ExecutionRecord, ExecutionRow } from "../contract.gen";

/**
 * The names in the address. `state` is one or several, with commas. Times are local, as `<input type=datetime-local>` writes
 * them: `from` and `until` of creation, `ended` and `ended_until` of the end. `columns` says which are shown, with commas.
 */
export const NAMES = [
  "state",
  "kind",
  "lane",
  "tag",
  "text",
  "category",
  "attempts",
  "most",
  "from",
  "until",
  "ended",
  "ended_until",
  "namespace",
  "flow",
  "parent",
  "worker",
  "group",
  "columns",
] as const;
export type Filters = { [name in (typeof NAMES)[number]]?: string };

export function readFilters(search: Record<string, unknown>): Filters {
  const filters: Filters = {};
  for (const name of NAMES) {
    const value = search[name];
    if (typeof value === "string" && value) filters[name] = value;
    if (typeof value === "number") filters[name] = String(value);
  }
  return filters;
}

const instantOf = (local: string | undefined): number | undefined => {
  const at = local ? Date.parse(local) : NaN;
  return Number.isNaN(at) ? undefined : at;
};

const numberOf = (text: string | undefined): number | undefined => (text === undefined ? undefined : Number(text));

/** The same as `execution.search` and `execution.bulk` take it. */
export function filterOf(f: Filters): ExecutionFilter {
  const all: ExecutionFilter = {
    states: f.state ? (f.state.split(",") as ExecutionFilter["states"]) : undefined,
    kind: f.kind,
    lane: f.lane,
    tag: f.tag,
    text: f.text,
    failure_category: f.category,
    failure_group: f.group,
    min_attempts: numberOf(f.attempts),
    max_attempts: numberOf(f.most),
    created_from: instantOf(f.from),
    created_until: instantOf(f.until),
    finished_from: instantOf(f.ended),
    finished_until: instantOf(f.ended_until),
    namespace: f.namespace,
    flow_id: f.flow,
    parent_id: f.parent,
    worker_id: f.worker,
  };
  return JSON.parse(JSON.stringify(all)) as ExecutionFilter;
}

/** The same as options of `penstock search` and `penstock bulk start`. */
export function optionsOf(filter: ExecutionFilter): [string, unknown][] {
  const { states, flow_id, parent_id, worker_id, failure_category, failure_group, ...rest } = filter;
  const named: Record<string, unknown> = {
    ...rest,
    flow: flow_id,
    parent: parent_id,
    worker: worker_id,
    category: failure_category,
    group: failure_group,
  };
  const each = (states ?? []).map((state): [string, unknown] => ["state", state]);
  const others = Object.entries(named)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]): [string, unknown] => [name.replaceAll("_", "-"), /^(created|finished)/.test(name) ? new Date(value as number).toISOString() : value]);
  return [...each, ...others];
}

export function rowOf({ input: _input, result: _result, lease, ...rest }: ExecutionRecord): ExecutionRow {
  const holder = (lease as { worker_id?: string } | null)?.worker_id ?? null;
  return { ...rest, worker_id: holder } as ExecutionRow;
}

/** Whether a row is in the list, as far as it tells: which failure group it is of only the scheduler knows. */
export function matches(x: ExecutionRow, f: ExecutionFilter): boolean {
  const [tag, value] = f.tag ? f.tag.split(/=(.*)/s) : [];
  const text = f.text?.toLowerCase();
  return (
    (!f.states || f.states.some((each) => each === x.state)) &&
    (!f.lane || x.lane === f.lane) &&
    (!f.kind || (f.kind.endsWith(".*") ? x.kind.startsWith(f.kind.slice(0, -1)) : x.kind === f.kind)) &&
    (!f.namespace || x.namespace === f.namespace) &&
    (!f.flow_id || x.flow_id === f.flow_id) &&
    (!f.parent_id || x.parent_id === f.parent_id) &&
    (!f.worker_id || x.worker_id === f.worker_id) &&
    (!f.failure_category || x.failure?.["category"] === f.failure_category) &&
    x.attempt_index >= (f.min_attempts ?? 0) &&
    x.attempt_index <= (f.max_attempts ?? Infinity) &&
    (f.finished_from === undefined || (x.finished_at ?? -1) >= (f.finished_from ?? 0)) &&
    (f.finished_until === undefined || (x.finished_at ?? Infinity) < (f.finished_until ?? Infinity)) &&
    x.created_at >= (f.created_from ?? 0) &&
    x.created_at < (f.created_until ?? Infinity) &&
    (tag === undefined || (tag in x.tags && (value === undefined || x.tags[tag] === value))) &&
    (!text || [x.execution_id, x.kind, ...Object.entries(x.tags).flat()].some((each) => each.toLowerCase().includes(text)))
  );
}

/** Whether an event alone says that its execution is not in the list, so that it need not be fetched. */
export function surelyOut(event: AuditEvent, f: ExecutionFilter): boolean {
  const { lane, kind } = event.data ?? {};
  return (
    (!!f.namespace && event.namespace !== f.namespace) ||
    (!!f.lane && lane !== undefined && lane !== f.lane) ||
    (!!f.kind && !f.kind.endsWith(".*") && kind !== undefined && kind !== f.kind) ||
    (!!f.states && event.to !== null && !f.states.some((each) => each === event.to))
  );
}

/** Whether an execution can come into the list after it was created. */
export function canCome(f: ExecutionFilter): boolean {
  return !!(f.states ?? f.tag ?? f.text ?? f.worker_id ?? f.failure_category ?? f.min_attempts ?? f.flow_id ?? f.parent_id ?? f.finished_from ?? f.finished_until);
}
