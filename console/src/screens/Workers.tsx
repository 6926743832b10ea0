/** Workers: who is there, what each takes, and when it was last heard. */

import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { type ReactNode } from "react";
import { pagesOf } from "../bus/forAll";
import { useAsk, useList, useSome } from "../bus/useAsk";
import type { WorkerInfo } from "../contract.gen";
import { duration } from "../lib/format";
import { ForAll, Runs } from "../ui/ForAll";
import { Listed } from "../ui/Listed";
import type { Column } from "../ui/Table";
import { Filter, Statuses, holds } from "../ui/Filters";
import { Ago, Empty, ExecutionLink, Failure, Page, Panel, State, VerbButton } from "../ui/parts";
import { workerOffers } from "./operating";

/** An event loop that does not turn for so long keeps leases from being renewed. */
const LONG_MS = 1000;

function Lag({ ms }: { ms: number | null }): ReactNode {
  if (ms === null) return <span className="faint">–</span>;
  return <span className={ms >= LONG_MS ? "bad-text" : undefined}>{duration(ms)}</span>;
}

const COLUMNS: Column<WorkerInfo>[] = [
  { name: "Worker", width: "minmax(8rem, 1fr)", cell: (x) => <strong className="mono">{x.worker_id}</strong> },
  { name: "Status", width: "5.5rem", cell: (x) => <State of={x.status} /> },
  { name: "Holds", wide: true, width: "4rem", numeric: true, cell: (x) => (x.held === null ? "–" : x.slots ? `${x.held} / ${x.slots}` : x.held) },
  { name: "Loop lag", width: "4.5rem", numeric: true, wide: true, cell: (x) => <Lag ms={x.loop_lag_ms} /> },
  { name: "Lanes", width: "minmax(5rem, 10rem)", wide: true, cell: (x) => x.lanes.join(", ") },
  { name: "Kinds", width: "minmax(5rem, 1.4fr)", wide: true, cell: (x) => <>{x.kinds?.join(", ") ?? <span className="faint">all</span>}{x.capabilities.length ? <small> can do {x.capabilities.join(", ")}</small> : null}</> },
  { name: "Version", width: "5.5rem", wide: true, cell: (x) => x.version || <span className="faint">–</span> },
  { name: "Last heard", width: "5rem", numeric: true, wide: true, cell: (x) => <Ago at={x.seen_at} /> },
  {
    name: "Actions",
    width: "4.5rem",
    cell: (x) =>
      workerOffers(x).map((each) => (
        <VerbButton key={each.name} verb={each.verb} off={each.off} onClick={each.go}>
          {each.name}
        </VerbButton>
      )),
  },
];

function Holds({ of: x }: { of: WorkerInfo }): ReactNode {
  const { worker_id } = x;
  const held = useAsk(
    "execution.search",
    { filter: { worker_id, states: ["leased", "running"] }, limit: 200 },
    (event) => event.entity === "execution" && event.to !== null,
  );
  return (
    <Panel title={`What ${worker_id} holds`} extra={<Link to="/executions" search={{ worker: worker_id }}>as a list</Link>}>
      {held.error ? (
        <Failure error={held.error} retry={held.reload} />
      ) : held.data?.items.length ? (
        <ul className="plain-list" aria-label="Holds">
          {held.data.items.map((each) => (
            <li key={each.execution_id}>
              <ExecutionLink id={each.execution_id} /> <strong>{each.kind}</strong> <State of={each.state} /> <Ago at={each.started_at} />
            </li>
          ))}
        </ul>
      ) : (
        <Empty title={held.data?.cursor ? "None among the newest that run" : "Nothing"} />
      )}
    </Panel>
  );
}

export const WORKER_STATUSES = ["active", "draining", "lost"] as const;

export function Workers(): ReactNode {
  const { worker, status, text } = useSearch({ from: "/workers" });
  const navigate = useNavigate();
  const wanted = { ...(status && { status }) };
  const wants = (x: WorkerInfo): boolean => holds(x.worker_id, text);
  const listed = useList(
    "worker.list",
    wanted,
    (event) => event.entity === "worker" || (event.entity === "execution" && event.to !== null),
  );
  const workers = useSome(listed, wants);
  return (
    <Page
      title="Workers"
      lead="A worker that is silent for three heartbeats is lost; ten minutes later it is forgotten."
      extra={
        <ForAll
          screen="/workers"
          list={workers.data}
          pages={pagesOf("worker.list", wanted, wants)}
          offersOf={workerOffers}
          actions={[["worker.drain", "Drain"]]}
          which={[status ? `workers that are ${status}` : text ? "workers" : "no filter: all workers", text && `their names hold ${text}`].filter(Boolean).join(", ")}
        />
      }
    >
      <Runs screen="/workers" />
      <Statuses of={WORKER_STATUSES} at={status} all go={(next) => void navigate({ to: "/workers", search: { worker, text, status: next } })}>
        <Filter search label="Name" value={text} go={(next) => void navigate({ to: "/workers", search: { worker, status, text: next }, replace: true })} />
      </Statuses>
      <Listed
        answer={workers}
        label="Workers"
        columns={COLUMNS}
        idOf={(x) => x.worker_id}
        onOpen={(x) => void navigate({ to: "/workers", search: { status, text, worker: worker === x.worker_id ? undefined : x.worker_id } })}
        empty={
          <Empty title={text ? "No worker matches these filters" : status ? `No worker is ${status}` : "No workers"}>
            Start one with <code>penstock worker MODULE:NAME</code>; it appears here at once.
          </Empty>
        }
      />
      {workers.data?.items.filter((each) => each.worker_id === worker).map((each) => <Holds key={each.worker_id} of={each} />)}
    </Page>
  );
}
