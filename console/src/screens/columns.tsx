/** The columns that the list of executions can show, and the choice among them. */

import * as Menu from "@radix-ui/react-dropdown-menu";
import { Link } from "@tanstack/react-router";
import { type ReactNode } from "react";
import type { ExecutionRow } from "../contract.gen";
import { duration, preview } from "../lib/format";
import type { Column } from "../ui/Table";
import { Ago, ExecutionLink, State, useNow } from "../ui/parts";

const none = <span className="faint">–</span>;

function Took({ of }: { of: ExecutionRow }): ReactNode {
  const now = useNow();
  if (!of.started_at) return none;
  return <>{duration((of.finished_at ?? Math.max(now, of.started_at)) - of.started_at)}</>;
}

function Tags({ of }: { of: Record<string, string> }): ReactNode {
  return <span className="mono faint">{Object.entries(of).map(([name, value]) => `${name}=${value}`).join(" ")}</span>;
}

const why = (x: ExecutionRow): ReactNode =>
  x.failure && x.state !== "completed" ? <span className="bad-text">{preview(x.failure["reason"] ?? x.failure)}</span> : null;

/** By the name that the address has. */
const ALL: Record<string, Column<ExecutionRow>> = {
  state: { name: "State", width: "minmax(8.2rem, 11.6rem)", cell: (x) => <State of={x.state} reason={x.reason} /> },
  kind: { name: "Kind", width: "minmax(5.5rem, 10rem)", cell: (x) => <strong>{x.kind}</strong> },
  id: { name: "Id", width: "8.6rem", cell: (x) => <ExecutionLink id={x.execution_id} />, wide: true },
  lane: { name: "Lane", width: "minmax(4rem, 5.5rem)", cell: (x) => x.lane, wide: true },
  attempt: { name: "Attempt", width: "4.2rem", numeric: true, wide: true, cell: (x) => (x.attempt_index ? `${x.attempt_index} / ${x.max_attempts}` : none) },
  took: { name: "Took", width: "4.6rem", numeric: true, wide: true, cell: (x) => <Took of={x} /> },
  created: { name: "Created", width: "5.2rem", numeric: true, cell: (x) => <Ago at={x.created_at} /> },
  about: { name: "Why it failed, or its tags", width: "minmax(8rem, 1fr)", wide: true, cell: (x) => why(x) ?? <Tags of={x.tags} /> },
  failure: { name: "Why it failed", width: "minmax(8rem, 1fr)", wide: true, cell: (x) => why(x) ?? none },
  category: { name: "Category", width: "6rem", wide: true, cell: (x) => <span className="mono">{String(x.failure?.["category"] ?? "")}</span> },
  tags: { name: "Tags", width: "minmax(8rem, 1fr)", wide: true, cell: (x) => <Tags of={x.tags} /> },
  progress: { name: "Progress", width: "6rem", wide: true, cell: (x) => <>{x.progress ? `${String(x.progress["pct"] ?? "")} %` : none}</> },
  worker: { name: "Worker", width: "minmax(6rem, 12rem)", wide: true, cell: (x) => (x.worker_id ? <span className="mono">{x.worker_id}</span> : none) },
  priority: { name: "Priority", width: "4rem", numeric: true, wide: true, cell: (x) => x.priority },
  reclaims: { name: "Leases lost", width: "5rem", numeric: true, wide: true, cell: (x) => x.reclaims },
  namespace: { name: "Namespace", width: "6rem", wide: true, cell: (x) => x.namespace },
  flow: { name: "Flow", width: "8.6rem", wide: true, cell: (x) => (x.flow_id ? <Link className="mono" to="/flows/$id" params={{ id: x.flow_id }}>{x.flow_id.slice(-12)}</Link> : none) },
  parent: { name: "Parent", width: "8.6rem", wide: true, cell: (x) => (x.parent_id ? <ExecutionLink id={x.parent_id} /> : none) },
  started: { name: "Started", width: "5.2rem", numeric: true, wide: true, cell: (x) => <Ago at={x.started_at} /> },
  ended: { name: "Ended", width: "5.2rem", numeric: true, wide: true, cell: (x) => <Ago at={x.finished_at} /> },
};
const USUAL = ["state", "kind", "id", "lane", "attempt", "took", "created", "about"];

/** Those that are chosen, in their fixed order. */
export function columnsOf(chosen: string | undefined): Column<ExecutionRow>[] {
  const names = namesOf(chosen);
  return Object.entries(ALL).flatMap(([name, column]) => (names.includes(name) ? [column] : []));
}

function namesOf(chosen: string | undefined): string[] {
  const names = chosen?.split(",").filter((each) => each in ALL) ?? [];
  return names.length ? names : USUAL;
}

/** A menu to choose columns. `set` gets what the address has: undefined for the usual ones. */
export function Columns({ chosen, set }: { chosen: string | undefined; set: (columns: string | undefined) => void }): ReactNode {
  const names = namesOf(chosen);
  const flip = (name: string): void => {
    const next = Object.keys(ALL).filter((each) => (each === name ? !names.includes(name) : names.includes(each)));
    if (next.length) set(next.join() === USUAL.join() ? undefined : next.join());
  };
  return (
    <Menu.Root modal={false}>
      <Menu.Trigger asChild>
        <button type="button">Columns ▾</button>
      </Menu.Trigger>
      <Menu.Portal>
        <Menu.Content className="menu" align="end" sideOffset={4} aria-label="Columns">
          {Object.entries(ALL).map(([name, column]) => (
            <Menu.CheckboxItem key={name} checked={names.includes(name)} onCheckedChange={() => flip(name)} onSelect={(event) => event.preventDefault()}>
              <span className="tick" aria-hidden="true">{names.includes(name) ? "✓" : ""}</span> {column.name}
            </Menu.CheckboxItem>
          ))}
          <Menu.Item onSelect={() => set(undefined)}>The usual ones</Menu.Item>
        </Menu.Content>
      </Menu.Portal>
    </Menu.Root>
  );
}
