/** An execution's life as bars: what it waited for, and each attempt with its leases. */

import { type ReactNode } from "react";
import type { ExecutionEvent } from "../contract.gen";
import { clock, duration } from "../lib/format";
import { Empty, useNow } from "../ui/parts";

interface Bar {
  state: string;
  from: number;
  to: number | null;
  row: string;
  says: string;
}

const HELD = new Set(["leased", "running"]);
const ENDED = new Set(["completed", "failed", "canceled"]);

/** The bars of a history: from each move to the next one. */
export function barsOf(events: readonly ExecutionEvent[]): Bar[] {
  const bars: Bar[] = [];
  let attempt = 0;
  for (const event of events) {
    if (!event.to) continue;
    const last = bars.at(-1);
    if (last && last.to === null) last.to = event.at;
    const data = event.data ?? {};
    if (typeof data["attempt_index"] === "number") attempt = data["attempt_index"];
    if (ENDED.has(event.to)) continue;
    const held = HELD.has(event.to);
    const worker = typeof data["worker_id"] === "string" ? data["worker_id"] : null;
    const epoch = typeof data["lease_epoch"] === "number" ? data["lease_epoch"] : null;
    bars.push({
      state: event.to,
      from: event.at,
      to: null,
      row: held ? `attempt ${attempt || 1}` : event.to === "suspended" ? "suspended" : "waits",
      says: [event.to.replace("_", " "), event.reason, worker && `on ${worker}`, epoch && `lease ${epoch}`].filter(Boolean).join(", "),
    });
  }
  return bars;
}

export function Timeline({ events, ended }: { events: readonly ExecutionEvent[]; ended: number | null }): ReactNode {
  const present = useNow();
  const bars = barsOf(events);
  const first = bars[0];
  if (!first) return <Empty title="Nothing has happened yet" />;
  const end = ended ?? Math.max(present, ...bars.map((each) => each.to ?? each.from));
  const span = Math.max(1, end - first.from);
  const rows = [...new Set(bars.map((each) => each.row))];
  return (
    <div className="timeline">
      {rows.map((row) => (
        <div key={row} className="t-row">
          <div className="t-name">{row}</div>
          <div className="t-bars">
            {bars
              .filter((each) => each.row === row)
              .map((each) => {
                const until = each.to ?? end;
                const says = `${each.says}: ${duration(until - each.from)} from ${clock(each.from, true)}`;
                return (
                  <div
                    key={each.from + each.state}
                    className={`t-bar s-${each.state}${each.to === null && ended === null ? " open" : ""}`}
                    style={{ left: `${((each.from - first.from) / span) * 100}%`, width: `${((until - each.from) / span) * 100}%` }}
                    title={says}
                    role="img"
                    aria-label={says}
                  />
                );
              })}
          </div>
          <div className="t-sum num">
            {duration(bars.filter((each) => each.row === row).reduce((sum, each) => sum + (each.to ?? end) - each.from, 0))}
          </div>
        </div>
      ))}
      <div className="t-row t-axis">
        <div />
        <div className="t-ends num">
          <span>{clock(first.from, true)}</span>
          <span>{duration(span)} in all</span>
          <span>{ended ? clock(ended, true) : "now"}</span>
        </div>
        <div />
      </div>
    </div>
  );
}
