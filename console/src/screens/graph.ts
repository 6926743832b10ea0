/** A flow's graph as `flow.graph` tells it, typed; collapsing of what is alike; and the same as Mermaid. */

import type { Graph as GraphReply } from "../contract.gen";

export interface Member {
  key: string;
  execution_id: string;
  kind: string;
  state: string;
  reason: string | null;
}

export interface Join {
  policy: string;
  k?: number;
}

export interface Graph {
  members: Member[];
  edges: { from: string; to: string }[];
  joins: Record<string, Join>;
}

export function readGraph(reply: GraphReply): Graph {
  return {
    members: reply.members as unknown as Member[],
    edges: reply.edges as unknown as Graph["edges"],
    joins: reply.joins as unknown as Record<string, Join>,
  };
}

/** One box of the drawing: a member, or several that have the same kind and the same neighbours. */
export interface Box {
  id: string;
  members: Member[];
  join: Join | null;
}

/** Fewer members than this are always drawn one by one. */
const FEW = 4;

/**
 * Put members of one kind with the same parents and the same children into one box, but for those in `open`.
 *
 * A fan-out of thousands is then three boxes. What is left over (a graph with no such symmetry) is drawn as it is.
 */
export function collapse(graph: Graph, open: ReadonlySet<string>): { boxes: Box[]; edges: { from: string; to: string }[] } {
  const parents = new Map<string, string[]>();
  const children = new Map<string, string[]>();
  for (const { from, to } of graph.edges) {
    (parents.get(to) ?? parents.set(to, []).get(to))?.push(from);
    (children.get(from) ?? children.set(from, []).get(from))?.push(to);
  }
  const alike = new Map<string, Member[]>();
  for (const member of graph.members) {
    const shape = JSON.stringify([member.kind, (parents.get(member.key) ?? []).sort(), (children.get(member.key) ?? []).sort()]);
    (alike.get(shape) ?? alike.set(shape, []).get(shape))?.push(member);
  }
  const boxes: Box[] = [];
  const boxOf = new Map<string, string>();
  for (const group of alike.values()) {
    const first = group[0] as Member;
    const parts = group.length < FEW || open.has(first.key) ? group.map((each) => [each]) : [group];
    for (const members of parts) {
      const id = (members[0] as Member).key;
      const join = graph.joins[id];
      boxes.push({ id, members, join: join && join.policy !== "all_of" ? join : null });
      for (const each of members) boxOf.set(each.key, id);
    }
  }
  const seen = new Set<string>();
  const edges: { from: string; to: string }[] = [];
  for (const { from, to } of graph.edges) {
    const edge = { from: boxOf.get(from) ?? from, to: boxOf.get(to) ?? to };
    const name = `${edge.from}>${edge.to}`;
    if (!seen.has(name)) edges.push(edge);
    seen.add(name);
  }
  return { boxes, edges };
}

export function mermaid(graph: Graph): string {
  const safe = (key: string): string => key.replace(/[^A-Za-z0-9_]/g, "_");
  return [
    "flowchart LR",
    ...graph.members.map((each) => `  ${safe(each.key)}["${each.key}<br/>${each.state}"]`),
    ...graph.edges.map(({ from, to }) => `  ${safe(from)} --> ${safe(to)}`),
  ].join("\n");
}
