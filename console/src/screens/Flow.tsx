/** One flow: its graph as it is now, its state, and what it waits for. */

import { useNavigate, useParams } from "@tanstack/react-router";
import { type ReactNode, Suspense, lazy, useMemo } from "react";
import { useAsk } from "../bus/useAsk";
import type { Flow as FlowRecord, Step } from "../contract.gen";
import { instant, preview } from "../lib/format";
import { Json } from "../ui/Json";
import { Offers } from "../ui/Offers";
import { type Column, Table } from "../ui/Table";
import { Ago, Copy, Empty, Facts, Failure, Page, Panel, State, Waiting } from "../ui/parts";
import { Counts } from "./Flows";
import { flowOffers } from "./actions";
import { type Graph, mermaid, readGraph } from "./graph";

const Drawn = lazy(() => import("./Drawn"));

export function Flow(): ReactNode {
  const { id } = useParams({ from: "/flows/$id" });
  return <One key={id} id={id} />;
}

function One({ id }: { id: string }): ReactNode {
  const flow = useAsk("flow.get", { flow_id: id }, (event) => event.id === id || event.entity === "execution");
  const x = flow.data;
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
      {x.kind === "mirrored" ? <Steps id={id} /> : <Members id={id} />}
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

function Members({ id }: { id: string }): ReactNode {
  const answer = useAsk("flow.graph", { flow_id: id }, (event) => event.entity === "execution" || event.id === id);
  const graph = useMemo<Graph | null>(() => (answer.data ? readGraph(answer.data) : null), [answer.data]);
  return (
    <Panel title="Graph" extra={graph ? <Copy text={mermaid(graph)}>copy as Mermaid</Copy> : null}>
      {answer.error ? (
        <Failure error={answer.error} />
      ) : !graph ? (
        <Waiting />
      ) : graph.members.length === 0 ? (
        <Empty title="It has no members yet" />
      ) : (
        <Suspense fallback={<Waiting />}>
          <Drawn graph={graph} />
        </Suspense>
      )}
    </Panel>
  );
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
