/** Now: what goes through, how fast, what fails, what is oldest, and who is there: from live events, and from `lane.stats`. */

import { Link } from "@tanstack/react-router";
import { type ReactNode, Suspense, lazy, useCallback, useState } from "react";
import { type Second, recent, seconds, useEvents } from "../bus/events";
import { open } from "../bus/link";
import { page, streamState } from "../bus/trail";
import { useAsk, useLoad } from "../bus/useAsk";
import type { Counts, Latency } from "../contract.gen";
import { clock, count, duration, many } from "../lib/format";
import { useStore } from "../lib/store";
import { Empty, ExecutionLink, Failure, Page, Panel, State, Waiting, useNow } from "../ui/parts";

const Chart = lazy(() => import("./Chart"));

/** The numbers at the top are of so many seconds. */
const LATELY_S = 60;

function lately(now: number): Second[] {
  const from = Math.floor(now / 1000) - LATELY_S;
  return seconds.filter((each) => each.at > from);
}

function percentile(sorted: number[], share: number): number | null {
  return sorted.length ? (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? null) : null;
}

function Big({ name, value, note, bad }: { name: string; value: ReactNode; note?: ReactNode; bad?: boolean }): ReactNode {
  return (
    <div className={`big${bad ? " bad" : ""}`}>
      <dt>{name}</dt>
      <dd className="num">{value}</dd>
      <dd className="faint">{note ?? "\u00a0"}</dd>
    </div>
  );
}

/** The lag of the audit trail is looked at so long after an event. */
const LAG_MS = 2000;
/** What is to be stopped is done within a second where all is well. */
const OVERDUE_MS = 10_000;

/** How many milliseconds after its change the newest event was stored: what the stream's clock says against Valkey's. */
async function auditLag(): Promise<number | null> {
  const { last_seq, messages } = await streamState("AUDIT");
  const last = messages ? (await page("AUDIT", { seq: last_seq }, 1))[0] : undefined;
  if (!last) return null;
  const event = JSON.parse(new TextDecoder().decode(last.body)) as { at?: number };
  return event.at === undefined ? null : Math.max(0, last.at - event.at);
}

export function Now(): ReactNode {
  const now = useNow();
  useStore(recent);
  const lanes = useAsk("lane.list", { limit: 1000 }, (event) => event.entity === "execution" || event.entity === "lane");
  const backlog = useAsk("cancel.backlog", { limit: 1000 }, (event) => event.event.startsWith("cancel"));
  const lag = useLoad(auditLag, (event) => event.entity === "execution", LAG_MS);
  const overdue = Math.max(0, ...(backlog.data?.items ?? []).map((each) => now - each.next_at));
  const span = lately(now);
  const sum = (of: (second: Second) => number): number => span.reduce((total, each) => total + of(each), 0);
  const took = span.flatMap((each) => each.took).sort((a, b) => a - b);
  const ended = sum((s) => s.completed) + sum((s) => s.failed);
  const failed = sum((s) => s.failed);
  const depth = (state: string): number => (lanes.data?.items ?? []).reduce((total, each) => total + (each.depth[state] ?? 0), 0);
  const oldest = Math.max(0, ...(lanes.data?.items ?? []).map((each) => each.oldest_ready_age_ms ?? 0));
  const p95 = percentile(took, 0.95);
  return (
    <Page title="Now" lead={`The last ${LATELY_S} seconds, as the events come.`}>
      {lanes.error ? <Failure error={lanes.error} retry={lanes.reload} /> : null}
      <dl className="bigs">
        <Big name="Ended" value={(ended / LATELY_S).toFixed(1)} note="executions a second" />
        <Big name="Created" value={(sum((s) => s.created) / LATELY_S).toFixed(1)} note="executions a second" />
        <Big name="Failed" value={ended ? `${((failed / ended) * 100).toFixed(1)} %` : "–"} note={failed ? many(failed, "execution") : "none"} bad={failed > 0} />
        <Big name="Took, median" value={duration(percentile(took, 0.5))} note={p95 === null ? undefined : `95 %: ${duration(p95)}`} />
        <Big name="Ready" value={lanes.data ? count(depth("ready")) : "–"} note={oldest ? `the oldest for ${duration(oldest)}` : "nothing waits"} />
        <Big name="Running" value={lanes.data ? count(depth("running") + depth("leased")) : "–"} />
        <Big name="Audit lag" value={lag.data === null ? "–" : duration(lag.data)} note={lag.error ? lag.error.message : "from a change to its event in the stream"} />
        <Big name="Cancel backlog" value={backlog.data ? count(backlog.data.items.length) : "–"} note={overdue > 0 ? `the first is ${duration(overdue)} overdue` : "none is overdue"} bad={overdue > OVERDUE_MS} />
      </dl>
      <Panel title="Throughput">
        <Suspense fallback={<Waiting />}>
          <Chart />
        </Suspense>
      </Panel>
      <Lately />
      <div className="columns even">
        <Services />
        <Failures />
      </div>
    </Page>
  );
}

/** `lane.stats` is written down every few seconds. */
const WRITTEN_MS = 3000;

/** The last 15 minutes and 24 hours, as the audit relay has counted them: also what was before this page was opened. */
function Lately(): ReactNode {
  const stats = useAsk("lane.stats", { minutes: 0 }, (event) => event.entity === "execution" && event.to !== null, WRITTEN_MS);
  const spans: [string, Counts | undefined, number][] = [
    ["15 minutes", stats.data?.last_15m, 15 * 60],
    ["24 hours", stats.data?.last_24h, 24 * 3600],
  ];
  return (
    <Panel title="Before" extra={<Link to="/failures">failures by cause</Link>}>
      {stats.error ? (
        <Failure error={stats.error} retry={stats.reload} />
      ) : (
        <div className="scroll-x" tabIndex={0} role="region" aria-label="The last 15 minutes and 24 hours">
          <table className="plain">
            <thead>
              <tr>
                <th>The last</th>
                {["created", "completed", "failed", "canceled", "tried again", "leases lost", "a second"].map((each) => (
                  <th key={each} className="right">{each}</th>
                ))}
                <th>waited: median, 95 %, 99 %</th>
                <th>ran: median, 95 %, 99 %</th>
              </tr>
            </thead>
            <tbody>
              {spans.map(([name, of, length]) => (
                <tr key={name} data-span={name}>
                  <td>{name}</td>
                  {[of?.created, of?.completed, of?.failed, of?.canceled, of?.retried, of?.reclaimed].map((n, at) => (
                    <td key={at} className="right num">{n === undefined ? "–" : count(n)}</td>
                  ))}
                  <td className="right num">{of ? ((of.completed + of.failed) / length).toFixed(2) : "–"}</td>
                  <td className="num"><Percentiles of={of?.wait} /></td>
                  <td className="num"><Percentiles of={of?.run} /></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Panel>
  );
}

function Percentiles({ of }: { of: Latency | undefined }): ReactNode {
  return of?.count ? <>{[of.p50, of.p95, of.p99].map(duration).join(", ")}</> : <span className="faint">–</span>;
}

interface Service {
  name: string;
  id: string;
  version: string;
  missing: string | null;
  requests: number;
  errors: number;
  /** Milliseconds from a request to its answer, on average; null before the first. */
  took: number | null;
}

interface Endpoint {
  num_requests: number;
  num_errors: number;
  processing_time: number;
}

async function gather<T>(subject: string): Promise<T[]> {
  const found: T[] = [];
  for await (const answer of await open().requestMany(subject, "", { strategy: "stall", stall: GATHER_MS, maxWait: 3000 })) found.push(answer.json<T>());
  return found;
}

const sumOf = (endpoints: readonly Endpoint[], of: (each: Endpoint) => number): number => endpoints.reduce((sum, each) => sum + of(each), 0);

/** How long the answers of services to a ping are gathered. */
const GATHER_MS = 700;

function Services(): ReactNode {
  const load = useCallback(async (): Promise<Service[]> => {
    const [pongs, stats] = await Promise.all([
      gather<{ name: string; id: string; version: string; metadata?: Record<string, string> }>("$SRV.PING"),
      gather<{ id: string; endpoints?: Endpoint[] }>("$SRV.STATS"),
    ]);
    const endpoints = new Map(stats.map((each) => [each.id, each.endpoints ?? []]));
    return pongs
      .filter((each) => each.name.startsWith("penstock-"))
      .map(({ name, id, version, metadata }): Service => {
        const of = endpoints.get(id) ?? [];
        const requests = sumOf(of, (each) => each.num_requests);
        return {
          name: name.replace("penstock-", ""),
          id,
          version,
          missing: metadata?.["penstock-missing"] ?? null,
          requests,
          errors: sumOf(of, (each) => each.num_errors),
          took: requests ? sumOf(of, (each) => each.processing_time) / requests / 1e6 : null,
        };
      })
      .sort((a, b) => a.name.localeCompare(b.name));
  }, []);
  const services = useLoad(load, () => false);
  const trail = useLoad(
    useCallback(() => streamState("AUDIT"), []),
    () => false,
  );
  return (
    <Panel title="Services" extra={<button type="button" className="quiet" onClick={services.reload}>ping again</button>}>
      {services.error ? (
        <Failure error={services.error} />
      ) : !services.data ? (
        <Waiting />
      ) : services.data.length === 0 ? (
        <Empty title="No service answers">Is a `penstock up` running, with this root?</Empty>
      ) : (
        <ul className="plain-list">
          {services.data.map((each) => (
            <li key={each.id}>
              <State of={each.missing ? "lost" : "active"} /> <strong>{each.name}</strong> <span className="faint">{each.version}</span>
              {each.missing ? <span className="bad-text"> without {each.missing}</span> : null}{" "}
              <span className="num faint">
                {many(each.requests, "request")}
                {each.took === null ? "" : `, ${duration(Math.round(each.took))} each`}
                {each.errors ? `, ${many(each.errors, "error")}` : ""}
              </span>
            </li>
          ))}
        </ul>
      )}
      {trail.data ? <p className="panel-foot faint">The audit trail holds {count(trail.data.messages)} events in {(trail.data.bytes / 2 ** 20).toFixed(1)} MiB.</p> : null}
    </Panel>
  );
}

interface Failed {
  id: string;
  at: number;
  what: string;
}

function Failures(): ReactNode {
  const [failed, setFailed] = useState<Failed[]>(() => read(recent.get().events));
  useEvents((events) => {
    const found = read(events);
    if (found.length) setFailed((old) => [...found, ...old].slice(0, 8));
  });
  return (
    <Panel title="Latest failures" extra={<Link to="/executions" search={{ state: "failed" }}>all</Link>}>
      {failed.length === 0 ? (
        <Empty title="Nothing has failed since this page was opened" />
      ) : (
        <ul className="plain-list">
          {failed.map((each) => (
            <li key={each.id}>
              <span className="num faint">{clock(each.at)}</span> <ExecutionLink id={each.id} /> <span className="bad-text">{each.what}</span>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}

function read(events: readonly { id: string; at: number; entity: string; to: string | null; reason: string | null; data: Record<string, unknown> | null }[]): Failed[] {
  return events
    .filter((each) => each.entity === "execution" && each.to === "failed")
    .map((each) => ({ id: each.id, at: each.at, what: String(each.data?.["reason"] ?? each.reason ?? "failed") }))
    .reverse()
    .slice(0, 8);
}
