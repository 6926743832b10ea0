/** One flow: its graph as it is now, its state, and what it waits for. */

import { useNavigate, useParams } from "@tanstack/react-router";
import { type ReactNode, Suspense, lazy, useEffect, useMemo, useState } from "react";
import { useEvents } from "../bus/events";
import { link } from "../bus/link";
import { type Answer, useAsk } from "../bus/useAsk";
import type { Flow as FlowRecord, Graph as GraphReply, Step } from "../contract.gen";
import { instant, preview } from "../lib/format";
import { useStore } from "../lib/store";
import { Json } from "../ui/Json";
import { Offers } from "../ui/Offers";
import { type Column, Table } from "../ui/Table";
import { Ago, Copy, Empty, Facts, Failure, Page, Panel, State, Waiting } from "../ui/parts";
import { Counts } from "./Flows";
import { flowOffers } from "./operating";
import { type Graph, type Live, mermaid, readGraph } from "./graph";

const Drawn = lazy(() => import("./Drawn"));

export function Flow(): ReactNode {
  const { id } = useParams({ from: "/flows/$id" });
  return <One key={id} id={id} />;
}

function One({ id }: { id: string }): ReactNode {
  const flow: Answer<FlowRecord> = useAsk("flow.get", { flow_id: id }, (event) => event.id === id || members.has(event.id));
  const x = flow.data;
  // Its members' states come with their events: so the graph, which may be large, is asked for again only when it changes.
  const asked = useAsk("flow.graph", x && x.kind !== "mirrored" ? { flow_id: id } : null, (event) => event.id === id && event.data?.["graph_revision"] !== undefined);
  const graph = useMemo<Graph | null>(() => (asked.data ? readGraph(asked.data) : null), [asked.data]);
  const members: ReadonlySet<string> = useMemo(() => new Set(graph?.members.map((each) => each.execution_id)), [graph]);
  if (flow.error) {
    return (
      <Page title="Flow" lead={<span className="mono">{id}</span>}>
        <Failure error={flow.error} retry={flow.reload} />
      </Page>
    );
  }
  if (!x) return <Waiting />;
  return (
    <Page
      title={
        <>
          {x.goal || "Flow"} <State of={x.status} />
        </>
      }
      lead={
        <>
          <span className="mono">{id}</span> <Copy text={id}>copy id</Copy>
        </>
      }
      extra={<Offers of={flowOffers(x)} label="Actions for this flow" />}
    >
      {x.wait ? (
        <p className="explain s-suspended">
          <strong>It waits:</strong> <span className="mono">{preview(x.wait, 200)}</span>
        </p>
      ) : null}
      {x.kind === "mirrored" ? <Steps id={id} /> : <Members asked={asked} graph={graph} members={members} />}
      <div className="columns">
        <Panel title="State">
          <Json value={x.state} label="State" />
        </Panel>
        <Panel title="Facts">
          <Details of={x} />
        </Panel>
      </div>
    </Page>
  );
}

function Details({ of: x }: { of: FlowRecord }): ReactNode {
  return (
    <Facts
      of={[
        ["Members", <Counts key="counts" of={x.counts} />],
        ["Owner", x.owner],
        ["Controller", x.controller_id],
        ["Step", x.current_step],
        ["Revision", `${x.revision}, graph ${x.graph_revision}`],
        ["Namespace", x.namespace === "default" ? null : x.namespace],
        ["Cancellation", x.cancel_requested ? "requested" : null],
        ["Created", instant(x.created_at)],
        ["Ended", x.finished_at ? instant(x.finished_at) : null],
      ]}
    />
  );
}

function Members({ asked, graph, members }: { asked: Answer<GraphReply>; graph: Graph | null; members: ReadonlySet<string> }): ReactNode {
  const live = useLive(members);
  return (
    <Panel title="Graph" extra={graph ? <Copy text={() => mermaid(graph, live)}>copy as Mermaid</Copy> : null}>
      {asked.error ? (
        <Failure error={asked.error} />
      ) : !graph ? (
        <Waiting />
      ) : graph.members.length === 0 ? (
        <Empty title="It has no members yet" />
      ) : (
        <Suspense fallback={<Waiting />}>
          <Drawn graph={graph} live={live} />
        </Suspense>
      )}
    </Panel>
  );
}

function useLive(members: ReadonlySet<string>): Live {
  const { epoch } = useStore(link);
  const [since, setSince] = useState<ReadonlyMap<string, ReturnType<Live>>>(new Map());
  // Events that were not heard while the connection was away are in the graph, which is asked for again.
  useEffect(() => setSince(new Map()), [epoch]);
  useEvents((events) => {
    const moved = events.filter((each) => each.to !== null && members.has(each.id));
    if (moved.length) setSince((old) => new Map([...old, ...moved.map(({ id, to, reason }) => [id, { state: to ?? "", reason }] as const)]));
  });
  return useMemo(() => (member) => since.get(member.execution_id) ?? member, [since]);
}

const STEPS: Column<Step>[] = [
  { name: "Status", width: "6.5rem", cell: (s) => <State of={s.status} /> },
  { name: "Task", width: "minmax(5rem, 1fr)", cell: (s) => <strong>{s.task}</strong> },
  { name: "Run", width: "minmax(8rem, 1fr)", wide: true, cell: (s) => <span className="mono">{s.run_id}</span> },
  { name: "Result", width: "minmax(8rem, 2fr)", wide: true, cell: (s) => <span className="mono faint">{preview(s.result)}</span> },
  { name: "Observed", width: "5.2rem", numeric: true, cell: (s) => <Ago at={s.observed_at} /> },
];

function Steps({ id }: { id: string }): ReactNode {
  const navigate = useNavigate();
  const steps = useAsk("flow.steps", { flow_id: id, limit: 1000 }, (event) => event.id === id);
  return (
    <Panel title="Steps, as another system tells them">
      {steps.error ? (
        <Failure error={steps.error} />
      ) : !steps.data ? (
        <Waiting />
      ) : (
        <Table
          label="Steps"
          columns={STEPS}
          rows={steps.data.items}
          idOf={(s) => `${s.run_id} ${s.task}`}
          onOpen={(s) => s.runtime === "penstock" && void navigate({ to: "/executions/$id", params: { id: s.run_id } })}
          empty={<Empty title="No step was observed yet" />}
        />
      )}
    </Panel>
  );
}
