/** The drawing of a flow's graph. It has a chunk of its own: the layout engine is large. */

import { Background, Controls, type Edge, Handle, type Node, type NodeProps, Panel, Position, ReactFlow, ReactFlowProvider, useReactFlow } from "@xyflow/react";
import "@xyflow/react/dist/style.css";
import { useNavigate } from "@tanstack/react-router";
import ELK from "elkjs/lib/elk-api.js";
import worker from "elkjs/lib/elk-worker.min.js?url";
import { type ReactNode, useEffect, useMemo, useState } from "react";
import { TERMINAL } from "../contract.gen";
import { count } from "../lib/format";
import { State } from "../ui/parts";
import { isDark } from "../ui/theme";
import { Counts } from "./Flows";
import { type Box, type Graph, type Live, collapse, columns } from "./graph";

/** The layout is made beside the page, which goes on meanwhile. */
const elk = new ELK({ workerFactory: () => new Worker(worker) });
const WIDTH = 190;
const HEIGHT = 58;
/** Of more boxes than this the careful layout would take long: they stand in columns. */
const CAREFUL = 400;
/** So many members of a box are shown one by one when it is opened; the rest stays a box. */
const OPENED = 20;
/** So far away very many boxes may be looked at: each that is seen is drawn. */
const FAR = 0.25;

type BoxNode = Node<{ box: Box; live: Live; waits: string | null; open: (box: Box) => void }, "box">;

function BoxView({ data }: NodeProps<BoxNode>): ReactNode {
  const { box, live, waits, open } = data;
  const first = box.members[0];
  if (!first) return null;
  const many = box.members.length > 1;
  const now = live(first);
  return (
    <button type="button" className={`box${many ? " many" : ` s-${now.state}`}`} onClick={() => open(box)} title={many ? "show some of them one by one" : [first.execution_id, waits].filter(Boolean).join("\n")}>
      <Handle type="target" position={Position.Left} isConnectable={false} />
      <strong>{many ? `${count(box.members.length)} × ${first.kind}` : first.key}</strong>
      {many ? <Counts of={tally(box, live)} /> : <State of={now.state} reason={waits ?? now.reason} />}
      {box.join ? <small className="join">{box.join.policy === "quorum" ? `any ${box.join.k ?? ""} of` : "any of"}</small> : null}
      <Handle type="source" position={Position.Right} isConnectable={false} />
    </button>
  );
}

function tally(box: Box, live: Live): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const each of box.members) {
    const { state } = live(each);
    counts[state] = (counts[state] ?? 0) + 1;
  }
  return counts;
}

const TYPES = { box: BoxView };

type Places = Map<string, { x: number; y: number }>;

async function layout(boxes: Box[], edges: { from: string; to: string }[]): Promise<Places> {
  if (boxes.length > CAREFUL) return columns(boxes, edges, WIDTH + 60, HEIGHT + 18);
  const done = await elk.layout({
    id: "flow",
    layoutOptions: {
      "elk.algorithm": "layered",
      "elk.direction": "RIGHT",
      "elk.layered.spacing.nodeNodeBetweenLayers": "60",
      "elk.spacing.nodeNode": "18",
    },
    children: boxes.map(({ id }) => ({ id, width: WIDTH, height: HEIGHT })),
    edges: edges.map(({ from, to }) => ({ id: `${from}>${to}`, sources: [from], targets: [to] })),
  });
  return new Map((done.children ?? []).map((each) => [each.id, { x: each.x ?? 0, y: each.y ?? 0 }]));
}

function Inner({ graph, live }: { graph: Graph; live: Live }): ReactNode {
  const navigate = useNavigate();
  const { fitView } = useReactFlow();
  const [opened, setOpened] = useState<ReadonlySet<string>>(new Set());
  const [places, setPlaces] = useState<Places | null>(null);
  const { boxes, edges } = useMemo(() => collapse(graph, opened), [graph, opened]);
  const shape = useMemo(() => JSON.stringify([boxes.map((each) => each.id), edges]), [boxes, edges]);

  useEffect(() => {
    let current = true;
    void layout(boxes, edges).then((found) => {
      if (!current) return;
      setPlaces(found);
      setTimeout(() => void fitView({ padding: 0.12, maxZoom: 1, minZoom: found.size > CAREFUL ? FAR : 0.02 }), 30);
    });
    return () => {
      current = false;
    };
    // States change often and shapes seldom: only a new shape is laid out anew.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [shape, fitView]);

  const nodes = useMemo<BoxNode[]>(() => {
    if (!places) return [];
    const open = (box: Box): void => {
      const first = box.members[0];
      if (!first) return;
      if (box.members.length > 1) setOpened((old) => new Set([...old, ...box.members.slice(0, OPENED).map((each) => each.key)]));
      else void navigate({ to: "/executions/$id", params: { id: first.execution_id } });
    };
    const members = new Map(graph.members.map((each) => [each.key, each]));
    const parents = new Map<string, string[]>();
    for (const { from, to } of graph.edges) (parents.get(to) ?? parents.set(to, []).get(to))?.push(from);
    const waits = (box: Box): string | null => {
      const first = box.members[0];
      if (!first || box.members.length > 1 || live(first).reason !== "dependencies") return null;
      const above = (parents.get(first.key) ?? []).flatMap((key) => members.get(key) ?? []);
      return `for ${count(above.filter((each) => !TERMINAL.has(live(each).state)).length)} of ${count(above.length)}`;
    };
    return boxes.flatMap((box) => {
      const position = places.get(box.id);
      return position ? [{ id: box.id, type: "box" as const, position, data: { box, live, waits: waits(box), open }, width: WIDTH, height: HEIGHT, focusable: false }] : [];
    });
  }, [boxes, places, navigate, live, graph]);

  const lines = useMemo<Edge[]>(
    () => edges.map(({ from, to }) => ({ id: `${from}>${to}`, source: from, target: to, focusable: false })),
    [edges],
  );

  return (
    <div className="graph" data-boxes={nodes.length} data-members={graph.members.length}>
      <ReactFlow
        nodes={nodes}
        edges={lines}
        nodeTypes={TYPES}
        colorMode={isDark() ? "dark" : "light"}
        nodesDraggable={false}
        nodesConnectable={false}
        edgesFocusable={false}
        onlyRenderVisibleElements={boxes.length > 200}
        minZoom={boxes.length > CAREFUL ? FAR : 0.02}
        proOptions={{ hideAttribution: true }}
      >
        <Background />
        <Controls showInteractive={false} />
        {opened.size ? (
          <Panel position="top-right">
            <button type="button" onClick={() => setOpened(new Set())}>
              Collapse
            </button>
          </Panel>
        ) : null}
      </ReactFlow>
    </div>
  );
}

export default function Drawn({ graph, live }: { graph: Graph; live: Live }): ReactNode {
  return (
    <ReactFlowProvider>
      <Inner graph={graph} live={live} />
    </ReactFlowProvider>
  );
}
