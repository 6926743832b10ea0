/** The audit events, live: the one source of everything that moves on the screens. */

import { useEffect, useRef } from "react";
import { Store } from "../lib/store";
import { hear, link, root } from "./link";

export interface AuditEvent {
  event_id: string;
  seq: number;
  namespace: string;
  entity: string;
  id: string;
  event: string;
  at: number;
  actor: string | null;
  from: string | null;
  to: string | null;
  reason: string | null;
  data: Record<string, unknown> | null;
  prev_hash: string;
  hash: string;
}

type Listener = (events: AuditEvent[]) => void;

/** A screen is drawn at most so often: an event after a silence is handed on at once, those that follow it together. */
const TOGETHER_MS = 60;
const KEPT = 5000;

const listeners = new Set<Listener>();
const decoder = new TextDecoder();
let pending: AuditEvent[] = [];
let timer: ReturnType<typeof setTimeout> | undefined;
let flushed = 0;
let stop: (() => void) | null = null;

/** The newest events, oldest first, as many as are kept; `total` counts all that came. */
export const recent = new Store<{ events: readonly AuditEvent[]; total: number }>({ events: [], total: 0 });
/** What each second has seen, for the charts: see `Second`. */
export const seconds: Second[] = [];

export interface Second {
  at: number;
  created: number;
  started: number;
  completed: number;
  failed: number;
  /** Milliseconds from start to end of what ended in this second, where the start was heard. */
  took: number[];
}

const MOST_SECONDS = 900;
const begun = new Map<string, number>();

function tally(event: AuditEvent): void {
  if (event.entity !== "execution") return;
  const at = Math.floor(event.at / 1000);
  let second = seconds.at(-1);
  if (!second || second.at < at) {
    second = { at, created: 0, started: 0, completed: 0, failed: 0, took: [] };
    seconds.push(second);
    if (seconds.length > MOST_SECONDS) seconds.shift();
  }
  if (event.event === "created") second.created += 1;
  if (event.to === "running") {
    second.started += 1;
    if (begun.size > 50_000) begun.clear();
    begun.set(event.id, event.at);
  }
  if (event.to === "completed") second.completed += 1;
  if (event.to === "failed") second.failed += 1;
  const from = begun.get(event.id);
  if (from !== undefined && event.to && event.to !== "running") {
    begun.delete(event.id);
    if (event.to === "completed" || event.to === "failed") second.took.push(event.at - from);
  }
}

function flush(): void {
  timer = undefined;
  flushed = performance.now();
  const events = pending;
  pending = [];
  for (const each of events) tally(each);
  const { events: kept, total } = recent.get();
  recent.set({ events: [...kept, ...events].slice(-KEPT), total: total + events.length });
  for (const each of [...listeners]) each(events);
}

function take(bytes: Uint8Array): void {
  try {
    pending.push(JSON.parse(decoder.decode(bytes)) as AuditEvent);
  } catch {
    return; // a stranger published there; it is no event
  }
  timer ??= setTimeout(flush, Math.max(0, flushed + TOGETHER_MS - performance.now()));
}

link.watch(() => {
  const { status } = link.get();
  if (status === "open" && !stop) stop = hear(`${root()}.audit.>`, (message) => take(message.data));
  if (status === "login" || status === "refused") {
    stop?.();
    stop = null;
  }
});

/** Call back with each batch of events while the component is shown. */
export function useEvents(callback: Listener): void {
  const latest = useRef(callback);
  latest.current = callback;
  useEffect(() => {
    const listener: Listener = (events) => latest.current(events);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
}
