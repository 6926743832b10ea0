/** The audit trail: follow it, filter it, and prove in this browser that it is whole. */

import { useNavigate, useSearch } from "@tanstack/react-router";
import { type ReactNode, useRef, useState } from "react";
import { type Proof, Verifier } from "../bus/chain";
import { AskError } from "../bus/errors";
import { type AuditEvent, recent, useEvents } from "../bus/events";
import { page, streamState } from "../bus/trail";
import { clock, count, preview } from "../lib/format";
import { type Column, Table } from "../ui/Table";
import { Empty, ExecutionLink, Failure, Page } from "../ui/parts";

export interface AuditFilters {
  entity?: string;
  event?: string;
  actor?: string;
  text?: string;
}

const SHOWN = 2000;

const matches = (event: AuditEvent, f: AuditFilters): boolean =>
  (!f.entity || event.entity === f.entity) &&
  (!f.event || event.event === f.event) &&
  (!f.actor || (event.actor ?? "").includes(f.actor)) &&
  (!f.text || event.id.includes(f.text) || JSON.stringify(event.data ?? "").includes(f.text));

function Entity({ of: event }: { of: AuditEvent }): ReactNode {
  if (event.entity === "execution") return <ExecutionLink id={event.id} />;
  return <span className="mono">{event.id}</span>;
}

const COLUMNS: Column<AuditEvent>[] = [
  { name: "Time", width: "6.5rem", cell: (e) => <span className="num">{clock(e.at, true)}</span> },
  { name: "Entity", width: "5rem", cell: (e) => e.entity },
  { name: "Event", width: "minmax(6rem, 10rem)", cell: (e) => <strong>{e.event}</strong> },
  { name: "Of", width: "8.6rem", wide: true, cell: (e) => <Entity of={e} /> },
  { name: "By", width: "minmax(6rem, 11rem)", wide: true, cell: (e) => e.actor ?? <span className="faint">–</span> },
  { name: "What", width: "minmax(8rem, 1fr)", wide: true, cell: (e) => <span className="mono faint">{preview(e.data)}</span> },
  { name: "Hash", width: "6.5rem", wide: true, cell: (e) => <span className="mono" title={e.hash}>{e.hash.slice(0, 10)}</span> },
];

export function Audit(): ReactNode {
  const filters = useSearch({ from: "/audit" });
  const navigate = useNavigate();
  const [follow, setFollow] = useState(true);
  const [rows, setRows] = useState<readonly AuditEvent[]>(() => [...recent.get().events].reverse());
  useEvents((events) => {
    if (follow) setRows((old) => [...[...events].reverse(), ...old].slice(0, SHOWN));
  });
  const shown = rows.filter((each) => matches(each, filters));
  const set = (name: keyof AuditFilters, value: string): void =>
    void navigate({ to: "/audit", replace: true, search: Object.fromEntries(Object.entries({ ...filters, [name]: value }).filter(([, v]) => v)) });
  return (
    <Page
      title="Audit"
      lead="Every change of state, from when this page was opened. Each event's hash holds the one before it."
      extra={
        <button type="button" aria-pressed={follow} onClick={() => setFollow(!follow)}>
          {follow ? "Pause" : "Follow"}
        </button>
      }
    >
      <Proving />
      <div className="filters">
        <div className="inputs">
          {(["entity", "event", "actor", "text"] as const).map((name) => (
            <label key={name} className="filter">
              <span>{name === "text" ? "Id or data" : name[0]?.toUpperCase() + name.slice(1)}</span>
              <input value={filters[name] ?? ""} placeholder="any" spellCheck={false} data-search={name === "text" ? "" : undefined} onChange={(e) => set(name, e.target.value.trim())} />
            </label>
          ))}
        </div>
      </div>
      <Table
        tall
        label="Audit events"
        columns={COLUMNS}
        rows={shown}
        idOf={(e) => e.event_id}
        onOpen={(e) => {
          if (e.entity === "execution") void navigate({ to: "/executions/$id", params: { id: e.id } });
          if (e.entity === "flow") void navigate({ to: "/flows/$id", params: { id: e.id } });
        }}
        empty={<Empty title={rows.length ? "No event matches these filters" : "Nothing has happened since this page was opened"}>Events appear as they are made.</Empty>}
      />
    </Page>
  );
}

function Proving(): ReactNode {
  const [proof, setProof] = useState<Proof | null>(null);
  const [progress, setProgress] = useState<{ done: number; total: number } | null>(null);
  const [error, setError] = useState<AskError | null>(null);
  const stopped = useRef(false);

  const verify = async (): Promise<void> => {
    stopped.current = false;
    setError(null);
    setProof(null);
    try {
      const state = await streamState("AUDIT");
      const verifier = new Verifier();
      let next = state.first_seq;
      setProgress({ done: 0, total: state.messages });
      while (next <= state.last_seq && !stopped.current) {
        const messages = await page("AUDIT", { seq: next }, Math.min(500, state.last_seq - next + 1));
        if (messages.length === 0) break;
        for (const each of messages) await verifier.feed(each.seq, each.body);
        next = (messages.at(-1)?.seq ?? next) + 1;
        setProgress({ done: verifier.proof.events, total: state.messages });
      }
      setProof({ ...verifier.proof });
    } catch (problem) {
      setError(AskError.of(problem));
    } finally {
      setProgress(null);
    }
  };

  return (
    <div className="proving" aria-live="polite">
      {progress ? (
        <>
          <progress max={progress.total} value={progress.done} aria-label="Events verified" />
          <span className="num">
            {count(progress.done)} of {count(progress.total)}
          </span>
          <button type="button" onClick={() => (stopped.current = true)}>
            Stop
          </button>
        </>
      ) : (
        <button type="button" onClick={() => void verify()}>
          Verify the chain
        </button>
      )}
      {proof ? (
        proof.problems.length ? (
          <span className="bad-text">
            <strong>Broken:</strong> {proof.problems[0]}
            {proof.problems.length > 1 ? ` (${count(proof.problems.length)} problems in all)` : ""}
          </span>
        ) : (
          <span className="ok-text">
            <strong>The chain is whole:</strong> {count(proof.events)} events, stream {count(proof.first)} to {count(proof.last)}; last hash{" "}
            <code title={proof.lastHash}>{proof.lastHash.slice(0, 16)}</code>
            {proof.first > 1 ? "; older ones are not here" : ""}
            {proof.strangers ? `; ${count(proof.strangers)} messages are none of Penstock's` : ""}
          </span>
        )
      ) : null}
      {error ? <Failure error={error} /> : null}
    </div>
  );
}
