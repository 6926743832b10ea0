/** The journal of a durable function: its steps as they were begun and done, and a fork from each. */

import { type ReactNode, useCallback } from "react";
import { useAsk } from "../bus/useAsk";
import type { Entry, ExecutionEvent, ExecutionRecord } from "../contract.gen";
import { clock, count, duration, preview } from "../lib/format";
import { Ago, ExecutionLink, Failure, Panel, State, VerbButton } from "../ui/parts";
import { fork } from "./actions";

const MOST = 1000;

/** The keys of entries that the code of the last attempt did not come by, if its worker told. */
function orphansOf(history: readonly ExecutionEvent[]): ReadonlySet<string> {
  const told = history.findLast((each) => each.event === "completed")?.data?.["orphans"];
  return new Set(Array.isArray(told) ? told.map(String) : []);
}

/** An entry as it is told: what has its default is left out. */
type Told = Partial<Entry> & Pick<Entry, "n" | "key" | "kind" | "status" | "at">;

function What({ of: x }: { of: Told }): ReactNode {
  if (x.error) return <span className="bad-text">{preview(x.error["reason"] ?? x.error)}</span>;
  if (x.child_id) return <ExecutionLink id={x.child_id} />;
  if (x.until && x.status === "waiting") return <Ago at={x.until} />;
  return <span className="mono faint">{preview(x.signals?.length ? x.signals : x.result, 60)}</span>;
}

export function Journal({ of, history, open }: { of: ExecutionRecord; history: readonly ExecutionEvent[]; open: (id: string) => void }): ReactNode {
  const { execution_id } = of;
  const mine = useCallback((event: { id: string }) => event.id === execution_id, [execution_id]);
  const journal = useAsk("journal.read", { execution_id, limit: MOST }, mine);
  const entries: readonly Told[] = journal.data?.items ?? [];
  if (journal.error) return <Panel title="Steps"><Failure error={journal.error} retry={journal.reload} /></Panel>;
  if (entries.length === 0) return null;
  const orphans = orphansOf(history);
  const first = of.started_at ?? of.created_at;
  const span = Math.max(1, ...entries.map((each) => each.at - first));
  return (
    <Panel title="Steps" extra={<span className="faint">{journal.data?.cursor ? `the first ${count(entries.length)}` : count(entries.length)}, live</span>}>
      <div className="scroll-x" tabIndex={0} role="region" aria-label="Steps">
        <table className="plain">
          <thead>
            <tr>
              <th className="right">#</th>
              <th>Step</th>
              <th>Status</th>
              <th>At</th>
              <th>After its start</th>
              <th>Attempt</th>
              <th>What came of it</th>
              <th>From here</th>
            </tr>
          </thead>
          <tbody>
            {entries.map((x) => (
              <tr key={x.key} data-step={x.key}>
                <td className="right num">{x.n}</td>
                <td>
                  {orphans.has(x.key) ? <s title="The code did not come by it when it ended: an orphan">{x.key}</s> : <strong>{x.key}</strong>} <small className="faint">{x.kind}</small>
                </td>
                <td>
                  <State of={x.status === "done" ? "completed" : x.status === "retry" ? "retry_wait" : x.status} reason={x.ended_by} />
                </td>
                <td className="num">{clock(x.at, true)}</td>
                <td>
                  <span className="step-at" role="img" aria-label={duration(x.at - first)} title={duration(x.at - first)}>
                    <i style={{ left: `${(Math.max(0, x.at - first) / span) * 96}%` }} />
                  </span>
                </td>
                <td className="num">{x.attempt ?? 1}</td>
                <td>
                  <What of={x} />
                </td>
                <td>
                  <VerbButton verb="execution.fork" off={x.kind === "state" ? "it is state, and no step" : null} onClick={() => fork(of, x, open)}>
                    Fork
                  </VerbButton>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}
