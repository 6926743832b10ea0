/** The drawing of a flow's graph. It has a chunk of its own: the layout engine is large. */

import { Background, Controls, type Edge, Handle, type Node, type NodeProps, Position, ReactFlow, ReactFlowProvider, useReactFlow } from "@xyflow/react";
import "@xyflow/react/dist/style.css";
import { useNavigate } from "@tanstack/react-router";
import ELK from "elkjs/lib/elk.bundled.js";
import { type ReactNode, useEffect, useMemo, useState } from "react";
import { count } from "../lib/format";
import { State } from "../ui/parts";
import { isDark } from "../ui/theme";
import { Counts } from "./Flows";
import { type Box, type Graph, collapse } from "./graph";

const elk = new ELK();
const WIDTH = 190;
const HEIGHT = 58;

type BoxNode = Node<{ box: Box; open: (box: Box) => void }, "box">;

function BoxView({ data }: NodeProps<BoxNode>): ReactNode {
  const { box, open } = data;
  const first = box.members[0];
  if (!first) return null;
  const many = box.members.length > 1;
  return (
    <button type="button" className={`box${many ? " many" : ` s-${first.state}`}`} onClick={() => open(box)} title={many ? "show each of them" : first.execution_id}>
      <Handle type="target" position={Position.Left} isConnectable={false} />
      <strong>{many ? `${count(box.members.length)} × ${first.kind}` : first.key}</strong>
      {many ? <Counts of={tally(box)} /> : <State of={first.state} reason={first.reason} />}
      {box.join ? <small className="join">{box.join.policy === "quorum" ? `any ${box.join.k ?? ""} of` : "any of"}</small> : null}
      <Handle type="source" position={Position.Right} isConnectable={false} />
    </button>
  );
}

function tally(box: Box): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { state } of box.members) counts[state] = (counts[state] ?? 0) + 1;
  return counts;
}

const TYPES = { box: BoxView };

type Places = Map<string, { x: number; y: number }>;

async function layout(boxes: Box[], edges: { from: string; to: string }[]): Promise<Places> {
  const done = await elk.layout({
    id: "flow",
    layoutOptions: {
      "elk.algorithm": "layered",
      "elk.direction": "RIGHT",
      "elk.layered.spacing.nodeNodeBetweenLayers": "60",
      "elk.spacing.nodeNode": "18",
      // The careful strategies take minutes for thousands of boxes.
      ...(boxes.length > 800 && { "elk.layered.thoroughness": "1", "elk.layered.nodePlacement.strategy": "SIMPLE" }),
    },
    children: boxes.map(({ id }) => ({ id, width: WIDTH, height: HEIGHT })),
    edges: edges.map(({ from, to }) => ({ id: `${from}>${to}`, sources: [from], targets: [to] })),
  });
  return new Map((done.children ?? []).map((each) => [each.id, { x: each.x ?? 0, y: each.y ?? 0 }]));
}

function Inner({ graph }: { graph: Graph }): ReactNode {
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
      setTimeout(() => void fitView({ padding: 0.12, maxZoom: 1 }), 30);
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
      if (box.members.length > 1) setOpened((old) => new Set([...old, first.key]));
      else void navigate({ to: "/executions/$id", params: { id: first.execution_id } });
    };
    return boxes.flatMap((box) => {
      const position = places.get(box.id);
      return position ? [{ id: box.id, type: "box" as const, position, data: { box, open }, width: WIDTH, height: HEIGHT, focusable: false }] : [];
    });
  }, [boxes, places, navigate]);

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
        minZoom={0.02}
        fitView
        proOptions={{ hideAttribution: true }}
      >
        <Background />
        <Controls showInteractive={false} />
      </ReactFlow>
    </div>
  );
}

export default function Drawn({ graph }: { graph: Graph }): ReactNode {
  return (
    <ReactFlowProvider>
      <Inner graph={graph} />
    </ReactFlowProvider>
  );
}
