/** Flows: graphs of executions, and flows that another system runs. */

import { useNavigate, useSearch } from "@tanstack/react-router";
import { type ReactNode } from "react";
import { pagesOf } from "../bus/forAll";
import { useList } from "../bus/useAsk";
import type { Flow } from "../contract.gen";
import { count } from "../lib/format";
import { ForAll, Runs } from "../ui/ForAll";
import { Listed } from "../ui/Listed";
import type { Column } from "../ui/Table";
import { Statuses } from "../ui/Filters";
import { Ago, Empty, Page, State } from "../ui/parts";
import { flowOffers } from "./operating";

export const FLOW_STATUSES = ["created", "running", "waiting", "finished", "failed", "cancelled"] as const;

/** How many members are in which state, as one bar. */
export function Counts({ of }: { of: Record<string, number> }): ReactNode {
  const entries = Object.entries(of).filter(([, n]) => n > 0);
  const total = entries.reduce((sum, [, n]) => sum + n, 0);
  if (total === 0) return <span className="faint">no members</span>;
  const says = entries.map(([state, n]) => `${count(n)} ${state.replace("_", " ")}`).join(", ");
  return (
    <span className="counts" title={says}>
      <span className="counts-bar" role="img" aria-label={says}>
        {entries.map(([state, n]) => (
          <i key={state} className={`s-${state}`} style={{ width: `${(n / total) * 100}%` }} />
        ))}
      </span>
      <span className="num faint">{count(total)}</span>
    </span>
  );
}

const COLUMNS: Column<Flow>[] = [
  { name: "Status", width: "7.5rem", cell: (x) => <State of={x.status} reason={x.cancel_requested && x.status === "running" ? "cancelling" : null} /> },
  { name: "Goal", width: "minmax(6rem, 1fr)", cell: (x) => <strong>{x.goal || <span className="faint">none told</span>}</strong> },
  { name: "Owner", width: "7rem", wide: true, cell: (x) => x.owner },
  { name: "Run by", width: "8rem", wide: true, cell: (x) => (x.kind === "mirrored" ? "another system" : "Penstock") },
  { name: "Step", width: "8rem", wide: true, cell: (x) => x.current_step ?? <span className="faint">–</span> },
  { name: "Members", width: "11rem", wide: true, cell: (x) => <Counts of={x.counts} /> },
  { name: "Created", width: "5.2rem", numeric: true, cell: (x) => <Ago at={x.created_at} /> },
];

export function Flows(): ReactNode {
  const { status } = useSearch({ from: "/flows" });
  const navigate = useNavigate();
  const wanted = { ...(status && { status }) };
  const flows = useList("flow.list", wanted, (event) => event.entity === "flow" || event.entity === "execution");
  return (
    <Page
      title="Flows"
      extra={
        <ForAll
          screen="/flows"
          list={flows.data}
          pages={pagesOf("flow.list", wanted)}
          offersOf={flowOffers}
          actions={[["flow.start", "Start"], ["flow.cancel", "Cancel"]]}
          which={status ? `flows that are ${status}` : "no filter: all flows"}
        />
      }
    >
      <Runs screen="/flows" />
      <Statuses of={FLOW_STATUSES} at={status} all go={(next) => void navigate({ to: "/flows", search: next ? { status: next } : {} })} />
      <Listed
        answer={flows}
        label="Flows"
        columns={COLUMNS}
        idOf={(x) => x.flow_id}
        onOpen={(x) => void navigate({ to: "/flows/$id", params: { id: x.flow_id } })}
        empty={
          <Empty title={status ? `No flow is ${status}` : "No flows yet"}>
            <code>penstock flow create FILE</code> makes one.
          </Empty>
        }
      />
    </Page>
  );
}
