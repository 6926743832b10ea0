/** A flow's graph as `flow.graph` tells it, typed; collapsing of what is alike; and the same as Mermaid. */

import type { Graph as GraphReply } from "../contract.gen";

export interface Member {
  key: string;
  execution_id: string;
  kind: string;
  state: string;
  reason: string | null;
}

/** How a member is now: the graph tells how it was when it was asked for, and events have come since. */
export type Live = (member: Member) => { state: string; reason: string | null };

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
/** So far along the edges two members are compared: those that differ only beyond this are alike. */
const ROUNDS = 16;
/** How often classes that have become small are told apart, with what follows for their neighbours. */
const PASSES = 6;

/**
 * Put members that play the same part into one box, but for those in `open`.
 *
 * Two members play the same part if they have the same kind, and their parents and their children play the same parts
 * (a bisimulation, found by refining colours). A fan-out of thousands is then three boxes, and so are thousands
 * of chains of three. Members of `open`, and those of classes of few, are themselves, which also tells their neighbours
 * apart. What has no such symmetry is drawn as it is.
 */
export function collapse(graph: Graph, open: ReadonlySet<string>): { boxes: Box[]; edges: { from: string; to: string }[] } {
  const at = new Map(graph.members.map((each, index) => [each.key, index]));
  const parents: number[][] = graph.members.map(() => []);
  const children: number[][] = graph.members.map(() => []);
  for (const { from, to } of graph.edges) {
    const [parent, child] = [at.get(from), at.get(to)];
    if (parent === undefined || child === undefined) continue;
    parents[child]?.push(parent);
    children[parent]?.push(child);
  }
  let colours = numbered(graph.members.map((each) => (open.has(each.key) ? `=${each.key}` : `:${each.kind} ${JSON.stringify(graph.joins[each.key] ?? null)}`)));
  for (let pass = 0; pass < PASSES; pass += 1) {
    colours = refined(colours, parents, children);
    const sizes = sizesOf(colours);
    const split = numbered(colours.map((each, index) => ((sizes.get(each) ?? 0) < FEW ? `=${index}` : `:${each}`)));
    if (Math.max(...split) === Math.max(...colours)) break;
    colours = split;
  }
  const classes = new Map<number, Member[]>();
  colours.forEach((colour, index) => {
    const member = graph.members[index] as Member;
    (classes.get(colour) ?? classes.set(colour, []).get(colour))?.push(member);
  });
  const boxes: Box[] = [];
  const boxOf = new Map<string, string>();
  for (const group of classes.values()) {
    const parts = group.length < FEW ? group.map((each) => [each]) : [group];
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
    if (!seen.has(name) && edge.from !== edge.to) edges.push(edge);
    seen.add(name);
  }
  return { boxes, edges };
}

/** The same number for the same text. */
function numbered(texts: string[]): number[] {
  const numbers = new Map<string, number>();
  return texts.map((each) => numbers.get(each) ?? numbers.set(each, numbers.size).size - 1);
}

function sizesOf(colours: readonly number[]): Map<number, number> {
  const sizes = new Map<number, number>();
  for (const each of colours) sizes.set(each, (sizes.get(each) ?? 0) + 1);
  return sizes;
}

/** Tell apart what has neighbours of other colours, until nothing changes. */
function refined(colours: number[], parents: readonly number[][], children: readonly number[][]): number[] {
  let many = new Set(colours).size;
  for (let round = 0; round < ROUNDS; round += 1) {
    const now = colours;
    const seen = (of: readonly number[] | undefined): string => [...new Set((of ?? []).map((each) => now[each]))].sort().join();
    const next = numbered(now.map((each, index) => `${each}|${seen(parents[index])}|${seen(children[index])}`));
    const found = new Set(next).size;
    colours = next;
    if (found === many) break;
    many = found;
  }
  return colours;
}

/** Places for very many boxes, column by column: each right of all that it follows, near the height of these. */
export function columns(boxes: readonly Box[], edges: readonly { from: string; to: string }[], width: number, height: number): Map<string, { x: number; y: number }> {
  const parents = new Map<string, string[]>();
  const children = new Map<string, string[]>();
  for (const { from, to } of edges) {
    (parents.get(to) ?? parents.set(to, []).get(to))?.push(from);
    (children.get(from) ?? children.set(from, []).get(from))?.push(to);
  }
  const missing = new Map(boxes.map(({ id }) => [id, parents.get(id)?.length ?? 0]));
  const places = new Map<string, { x: number; y: number }>();
  let column = boxes.map(({ id }) => id).filter((id) => missing.get(id) === 0);
  for (let x = 0; column.length; x += 1) {
    const middle = (id: string): number => {
      const above = (parents.get(id) ?? []).map((each) => places.get(each)?.y ?? 0);
      return above.length ? above.reduce((sum, y) => sum + y, 0) / above.length : 0;
    };
    const wanted = new Map(column.map((id) => [id, middle(id)]));
    column.sort((a, b) => (wanted.get(a) ?? 0) - (wanted.get(b) ?? 0));
    const next: string[] = [];
    column.forEach((id, y) => {
      places.set(id, { x: x * width, y: y * height });
      for (const child of children.get(id) ?? []) {
        const left = (missing.get(child) ?? 0) - 1;
        missing.set(child, left);
        if (left === 0) next.push(child);
      }
    });
    column = next;
  }
  return places;
}

export function mermaid(graph: Graph, live: Live): string {
  const safe = (key: string): string => key.replace(/[^A-Za-z0-9_]/g, "_");
  return [
    "flowchart LR",
    ...graph.members.map((each) => `  ${safe(each.key)}["${each.key}<br/>${live(each).state}"]`),
    ...graph.edges.map(({ from, to }) => `  ${safe(from)} --> ${safe(to)}`),
  ].join("\n");
}
