/** One execution: why it is where it is, its life as bars, what went in and came out, and its audit events. */

import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { type ReactNode, useCallback, useEffect, useState } from "react";
import { linkOf } from "../bus/chain";
import { hear, link, root } from "../bus/link";
import { type Stored, eventsOf } from "../bus/trail";
import { useAsk, useLoad } from "../bus/useAsk";
import type { ExecutionEvent, ExecutionRecord, Frame } from "../contract.gen";
import { clock, count, duration, instant, preview } from "../lib/format";
import { useStore } from "../lib/store";
import { Json } from "../ui/Json";
import { Offers } from "../ui/Offers";
import { Ago, Copy, Empty, ExecutionLink, Facts, Failure, Page, Panel, State, VerbButton, Waiting } from "../ui/parts";
import { executionOffers } from "./actions";
import { Children } from "./Children";
import { Durable } from "./Durable";
import { Journal } from "./Journal";
import { Timeline } from "./Timeline";
import { Waitpoints } from "./Waits";

export function Execution(): ReactNode {
  const { id } = useParams({ from: "/executions/$id" });
  return <One key={id} id={id} />;
}

function One({ id }: { id: string }): ReactNode {
  const navigate = useNavigate();
  const mine = useCallback((event: { id: string }) => event.id === id, [id]);
  const record = useAsk("execution.get", { execution_id: id }, mine);
  // A limit that has room again, or a lane that is resumed, changes the reason and no event of the execution tells.
  const why = useAsk("execution.explain", { execution_id: id }, (event) => event.id === id || event.entity !== "execution");
  const history = useAsk("execution.history", { execution_id: id, limit: 1000 }, mine);
  const x = record.data;
  if (record.error) {
    return (
      <Page title="Execution" lead={<span className="mono">{id}</span>}>
        <Failure error={record.error} retry={record.reload} />
      </Page>
    );
  }
  if (!x) return <Waiting />;
  const open = (to: string): void => void navigate({ to: "/executions/$id", params: { id: to } });
  const offers = executionOffers(x, open);
  const cancel = offers.find((each) => each.verb === "execution.cancel");
  const replay = offers.find((each) => each.verb === "execution.replay");
  return (
    <Page
      title={
        <>
          {x.kind} <State of={x.state} reason={x.reason} />
        </>
      }
      lead={
        <>
          <span className="mono">{id}</span> <Copy text={id}>copy id</Copy>
        </>
      }
      extra={
        <>
          {cancel && !cancel.off ? (
            <VerbButton verb="execution.cancel" kind="danger" onClick={cancel.go}>
              Cancel
            </VerbButton>
          ) : null}
          {replay && !replay.off ? (
            <VerbButton verb="execution.replay" kind="primary" onClick={replay.go}>
              Replay
            </VerbButton>
          ) : null}
          <Offers of={offers} label="Actions for this execution" />
        </>
      }
    >
      <p className={`explain s-${x.state}`} data-explain>
        {why.data ? (
          <>
            <strong>{why.data.explanation}</strong> {why.data.advice}
          </>
        ) : why.error ? (
          why.error.message
        ) : (
          "\u00a0"
        )}
      </p>
      {x.failure && x.state !== "completed" ? <FailureLine of={x} /> : null}
      <Panel title="Life">{history.data ? <Timeline events={history.data.items} ended={x.finished_at} /> : <Waiting />}</Panel>
      <Journal of={x} history={history.data?.items ?? []} open={open} />
      <div className="columns">
        <div>
          <Panel title="Input">
            <Json value={x.input} label="Input" />
          </Panel>
          {x.state === "completed" ? (
            <Panel title="Result">
              <Json value={x.result} label="Result" />
            </Panel>
          ) : null}
          <Frames id={id} />
          <Children of={id} />
          <Panel title="Waitpoints and signals">
            <Waitpoints execution={id} />
          </Panel>
        </div>
        <div>
          <Panel title="Facts">
            <Details of={x} />
          </Panel>
          <Durable of={x} />
        </div>
      </div>
      {history.data ? <Trail of={x} history={history.data.items} /> : null}
    </Page>
  );
}

function FailureLine({ of: x }: { of: ExecutionRecord }): ReactNode {
  const { category, reason, ...rest } = x.failure ?? {};
  return (
    <div className="note bad">
      <div>
        <strong className="mono">{String(category ?? "failed")}</strong> {String(reason ?? "")}
        {Object.keys(rest).length ? <span className="faint mono"> {preview(rest)}</span> : null}
      </div>
    </div>
  );
}

function Details({ of: x }: { of: ExecutionRecord }): ReactNode {
  const lease = x.lease as { worker_id?: string; expires_at?: number } | null;
  const progress = x.progress as { pct?: number; message?: string } | null;
  return (
    <Facts
      of={[
        [
          "Progress",
          progress?.pct === undefined ? null : (
            <>
              <progress max={100} value={progress.pct} aria-label="Progress" /> {progress.pct} % {progress.message}
            </>
          ),
        ],
        ["Worker", lease?.worker_id ? <Link to="/workers">{lease.worker_id}</Link> : null],
        ["Lease until", lease?.expires_at ? <Ago at={lease.expires_at} /> : null],
        ["Attempt", `${x.attempt_index} of ${x.max_attempts}`],
        ["Failed before", x.failure && x.state === "completed" ? <span className="bad-text">{preview(x.failure["reason"] ?? x.failure)}</span> : null],
        ["Leases lost", x.reclaims ? `${x.reclaims} of ${x.max_reclaims}` : null],
        [
          "Lane",
          <Link key="lane" to="/executions" search={{ lane: x.lane }}>
            {x.lane}
          </Link>,
        ],
        ["Priority", x.priority || null],
        ["Namespace", x.namespace === "default" ? null : x.namespace],
        [
          "Flow",
          x.flow_id ? (
            <Link className="mono" to="/flows/$id" params={{ id: x.flow_id }}>
              {x.flow_id}
            </Link>
          ) : null,
        ],
        ["Parent", x.parent_id ? <ExecutionLink id={x.parent_id} /> : null],
        ["Continues", x.continues ? <ExecutionLink id={x.continues} /> : null],
        ["Goes on in", x.continued_by ? <ExecutionLink id={x.continued_by} /> : null],
        ["Forked from", x.forked_from ? <ExecutionLink id={x.forked_from} /> : null],
        ["Version", x.version ? <span className="mono">{x.version}</span> : null],
        ["Replay of", x.replay_of ? <ExecutionLink id={x.replay_of} /> : null],
        [
          "Tags",
          Object.keys(x.tags).length
            ? Object.entries(x.tags).map(([name, value]) => (
                <Link key={name} className="tag" to="/executions" search={{ tag: `${name}=${value}` }}>
                  {name}={value}
                </Link>
              ))
            : null,
        ],
        ["Needs", x.capabilities.join(", ")],
        ["Created", instant(x.created_at)],
        ["Started", x.started_at ? instant(x.started_at) : null],
        ["Ended", x.finished_at ? instant(x.finished_at) : null],
        ["Ran for", x.started_at && x.finished_at ? duration(x.finished_at - x.started_at) : null],
        ["Deadline", x.deadline_at ? instant(x.deadline_at) : null],
        ["Trace", x.traceparent ? <span className="mono">{x.traceparent}</span> : null],
      ]}
    />
  );
}

function Frames({ id }: { id: string }): ReactNode {
  const { status, epoch } = useStore(link);
  const [frames, setFrames] = useState<Frame[]>([]);
  const stored = useAsk("frame.read", { execution_id: id, limit: 1000 });
  useEffect(() => {
    if (status !== "open") return;
    return hear(`${root()}.frame.${id}`, (message) => {
      const frame = message.json<Frame>();
      setFrames((old) => [...old, frame]);
    });
  }, [id, status, epoch]);
  const known = new Map<number, Frame>();
  for (const each of [...(stored.data?.items ?? []), ...frames]) known.set(each.index, each);
  const all = [...known.values()].sort((a, b) => a.index - b.index);
  if (all.length === 0) return null;
  return (
    <Panel title="Frames" extra={<span className="faint">{count(all.length)}, live</span>}>
      <div className="log" role="log" aria-label="Frames" tabIndex={0}>
        {all.map((each) => (
          <div key={each.index}>
            <time className="num faint">{clock(each.at, true)}</time> <span className="tag">{each.frame_type}</span>{" "}
            <span className="mono">{preview(each.payload, 400)}</span>
          </div>
        ))}
      </div>
    </Panel>
  );
}

const MOST_EVENTS = 40;

interface Proven extends Stored {
  event: { seq: number; event: string; actor: string | null; reason: string | null; to: string | null; data: unknown; hash: string };
  whole: boolean;
}

/** The stored events of this execution with their hashes, each checked here against its own bytes. */
function Trail({ of: x, history }: { of: ExecutionRecord; history: readonly ExecutionEvent[] }): ReactNode {
  const { execution_id: id, namespace } = x;
  // The newest say most; reading hundreds would take long.
  const wanted = JSON.stringify(history.slice(-MOST_EVENTS).map(({ seq, at }) => ({ seq, at })));
  const load = useCallback(async (): Promise<Proven[]> => {
    const found: Proven[] = [];
    for (const each of await eventsOf(namespace, id, JSON.parse(wanted) as ExecutionEvent[])) {
      const proof = await linkOf(each.body);
      if (proof) found.push({ ...each, event: JSON.parse(new TextDecoder().decode(each.body)) as Proven["event"], whole: proof.whole });
    }
    return found;
  }, [id, namespace, wanted]);
  // The relay carries an event to the stream a moment after it is told.
  const trail = useLoad(load, (event) => event.id === id);
  const [shown, setShown] = useState<Proven[]>([]);
  useEffect(() => {
    if (trail.data) setShown(trail.data);
  }, [trail.data]);
  return (
    <Panel title="Audit events" extra={<span className="faint">{shown.length ? "each hash checked in this browser" : null}</span>}>
      {trail.error ? (
        <Empty title="The stored trail cannot be read">{trail.error.message}. The bars above come from the execution&apos;s own history.</Empty>
      ) : shown.length === 0 ? (
        trail.data ? (
          <Empty title="The stored trail holds none of them any more" />
        ) : (
          <Waiting />
        )
      ) : (
        <div className="scroll-x" tabIndex={0} role="region" aria-label="Audit events">
          <table className="plain">
            <thead>
              <tr>
                <th className="right">#</th>
                <th>Time</th>
                <th>Event</th>
                <th>By</th>
                <th>What</th>
                <th>Hash</th>
              </tr>
            </thead>
            <tbody>
              {shown.map((each) => (
                <tr key={each.seq}>
                  <td className="right num">{each.event.seq}</td>
                  <td className="num">{clock(each.at, true)}</td>
                  <td>
                    <strong>{each.event.event}</strong>
                  </td>
                  <td>{each.event.actor ?? <span className="faint">–</span>}</td>
                  <td className="mono faint">{preview(each.event.data, 46)}</td>
                  <td className="mono" title={each.event.hash}>
                    <span className={each.whole ? "ok-text" : "bad-text"}>{each.whole ? "✓ " : "✗ does not fit "}</span>
                    {each.event.hash.slice(0, 12)}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Panel>
  );
}
