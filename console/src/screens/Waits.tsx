/** Waitpoints: what waits for a signal, which one is missing, and since when. */

import { useNavigate, useSearch } from "@tanstack/react-router";
import { type ReactNode, useState } from "react";
import { pagesOf } from "../bus/forAll";
import { useAsk, useList } from "../bus/useAsk";
import type { Waitpoint } from "../contract.gen";
import { clock, instant } from "../lib/format";
import { ForAll, Runs } from "../ui/ForAll";
import { Json } from "../ui/Json";
import { Listed } from "../ui/Listed";
import type { Column } from "../ui/Table";
import { Offers } from "../ui/Offers";
import { Filter, Statuses } from "../ui/Filters";
import { Ago, Empty, ExecutionLink, Failure, Page, State, Waiting } from "../ui/parts";
import { waitpointOffers } from "./operating";

const received = (w: Waitpoint): string =>
  Object.entries(w.received)
    .map(([name, n]) => (n > 1 ? `${name} ×${n}` : name))
    .join(", ");

/** The names of the signals that its condition speaks of. */
function wakers(condition: unknown): string[] {
  if (typeof condition !== "object" || condition === null) return [];
  const here = condition as Record<string, unknown>;
  const inner = ["any_of", "all_of", "of"].flatMap((name) => (Array.isArray(here[name]) ? (here[name] as unknown[]).flatMap(wakers) : []));
  return [...new Set([...(typeof here["name"] === "string" ? [here["name"]] : []), ...inner])];
}

const COLUMNS: Column<Waitpoint>[] = [
  { name: "Status", wide: true, width: "6.5rem", cell: (x) => <State of={x.status} /> },
  { name: "Missing", width: "minmax(8rem, 1fr)", cell: (x) => x.missing.join("; ") || <span className="faint">nothing</span> },
  { name: "Received", width: "minmax(5rem, 10rem)", wide: true, cell: (x) => received(x) || <span className="faint">–</span> },
  { name: "Signals that count", width: "minmax(5rem, 10rem)", wide: true, cell: (x) => <span className="mono">{wakers(x.condition).join(", ") || "any"}</span> },
  { name: "Execution", width: "8.6rem", wide: true, cell: (x) => <ExecutionLink id={x.execution_id} /> },
  { name: "Key", width: "6.5rem", wide: true, cell: (x) => <span className="mono">{x.waitpoint_key}</span> },
  { name: "Since", width: "5.2rem", numeric: true, cell: (x) => <Ago at={x.created_at} /> },
  { name: "Until", width: "5.2rem", numeric: true, wide: true, cell: (x) => <Ago at={x.expires_at} /> },
  { name: "Actions", width: "4.5rem", cell: (x) => <Offers compact of={waitpointOffers(x)} label="Actions for this waitpoint" /> },
];

export const WAIT_STATUSES = ["active", "pending", "closed"] as const;

export function Waits(): ReactNode {
  const { status = "active", namespace } = useSearch({ from: "/waits" });
  const navigate = useNavigate();
  const wanted = { status, ...(namespace && { namespace }) };
  const waits = useList("waitpoint.list", wanted, (event) => event.entity === "waitpoint");
  return (
    <Page
      title="Waits"
      lead="Active: an execution is suspended on it. Pending: nobody waits yet, and signals are kept. Whoever has the token of a waitpoint can send it signals; an operator can without."
      extra={
        <ForAll
          screen="/waits"
          list={waits.data}
          pages={pagesOf("waitpoint.list", wanted)}
          offersOf={waitpointOffers}
          actions={[["signal.send", "Signal"], ["waitpoint.close", "Close"]]}
          which={`${status} waitpoints of the namespace ${namespace ?? "default"}`}
        />
      }
    >
      <Runs screen="/waits" />
      <Statuses of={WAIT_STATUSES} at={status} go={(next) => void navigate({ to: "/waits", search: { namespace, status: next } })}>
        <Filter label="Namespace" hint="default" value={namespace} go={(next) => void navigate({ to: "/waits", search: { namespace: next, status } })} />
      </Statuses>
      <Listed
        answer={waits}
        label="Waitpoints"
        columns={COLUMNS}
        idOf={(x) => x.waitpoint_id}
        onOpen={(x) => void navigate({ to: "/executions/$id", params: { id: x.execution_id } })}
        empty={<Empty title={`No ${status} waitpoints`}>An execution that suspends itself for a signal appears here.</Empty>}
      />
    </Page>
  );
}

/** The waitpoints of one execution, for its page. */
export function Waitpoints({ execution }: { execution: string }): ReactNode {
  const waits = useAsk("waitpoint.list", { execution_id: execution, limit: 100 }, (event) => event.entity === "waitpoint");
  if (waits.error) return <Failure error={waits.error} />;
  if (!waits.data) return <Waiting />;
  if (waits.data.items.length === 0) return <Empty title="It has waited for no signal" />;
  return (
    <ul className="plain-list">
      {waits.data.items.map((w) => (
        <li key={w.waitpoint_id}>
          <State of={w.status} /> <span className="mono">{w.waitpoint_key}</span>
          {w.missing.length ? <> misses {w.missing.join("; ")}</> : null} <Ago at={w.created_at} />
          <Offers compact of={waitpointOffers(w)} label={`Actions for the waitpoint ${w.waitpoint_key}`} />
          {received(w) ? <Signals of={w} /> : null}
        </li>
      ))}
    </ul>
  );
}

/** The signals that a waitpoint keeps. They are read when they are opened: a waitpoint may hold a thousand, of 4 MiB. */
function Signals({ of: w }: { of: Waitpoint }): ReactNode {
  const [open, setOpen] = useState(false);
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>received {received(w)}</summary>
      {open ? <Kept at={w.waitpoint_id} /> : null}
    </details>
  );
}

function Kept({ at }: { at: string }): ReactNode {
  const signals = useList("signal.list", { waitpoint_id: at }, (event) => event.id === at);
  if (signals.error) return <Failure error={signals.error} />;
  if (!signals.data) return <Waiting />;
  return (
    <>
      <ul className="signals">
        {signals.data.items.map((each) => (
          <li key={each.signal_id} data-signal={each.signal_id}>
            <time className="num faint" dateTime={new Date(each.at).toISOString()} title={instant(each.at)}>
              {clock(each.at, true)}
            </time>{" "}
            <strong className="mono">{each.name}</strong> {each.source ? <>from {each.source}</> : <span className="faint">without a source</span>}{" "}
            {each.satisfied ? <span className="ok-text">✓ satisfied the condition</span> : null}
            {each.payload === null ? null : <Json value={each.payload} label={`Payload of ${each.name}`} />}
          </li>
        ))}
      </ul>
      {signals.data.cursor ? (
        <button type="button" className="quiet" onClick={signals.more}>
          more
        </button>
      ) : null}
    </>
  );
}
