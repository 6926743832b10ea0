/** The stored audit trail and the dead letters, read page by page with direct gets; no consumer is made. */

import { type Msg, createInbox } from "@nats-io/nats-core";
import { AskError } from "./errors";
import { denied, link, open, root } from "./link";

export interface Stored {
  seq: number;
  subject: string;
  at: number;
  headers: [string, string][];
  body: Uint8Array;
}

export interface StreamState {
  first_seq: number;
  last_seq: number;
  messages: number;
  bytes: number;
}

const PAGE = 500;
const PAGE_MS = 15_000;
const CLOCKS_MS = 500;
/** So many pages are read in search of one event: more pass only where thousands of events are made a second. */
const PAGES_PER_EVENT = 6;

export const streamName = (kind: "AUDIT" | "DEAD"): string => `${root().toUpperCase()}_${kind}`;

export async function streamState(kind: "AUDIT" | "DEAD", subject?: string): Promise<StreamState> {
  const body = subject ? JSON.stringify({ subjects_filter: subject }) : "";
  const reply = await open()
    .request(`$JS.API.STREAM.INFO.${streamName(kind)}`, body, { timeout: PAGE_MS })
    .catch((error: unknown) => {
      throw new AskError("unavailable", `the stream ${streamName(kind)} cannot be seen: ${String(error)}`);
    });
  const told = reply.json<{ state?: StreamState; error?: { description: string } }>();
  if (!told.state) throw new AskError("unavailable", told.error?.description ?? "the stream does not answer");
  return told.state;
}

/** Where a page begins: at a sequence, or at the first message stored at or after an instant. */
type From = { seq: number } | { start_time: string };

/** The messages from `from` on, oldest first, at most `most`; of one subject only, if named. Throws AskError. */
export async function page(kind: "AUDIT" | "DEAD", from: From, most = PAGE, subject?: string): Promise<Stored[]> {
  const nats = open();
  const { identity } = link.get();
  const inbox = createInbox(identity ? `_INBOX.${identity.name}` : undefined);
  const get = `$JS.API.DIRECT.GET.${streamName(kind)}`;
  const messages: Stored[] = [];
  return await new Promise<Stored[]>((resolve, reject) => {
    const done = (error?: AskError): void => {
      clearTimeout(timer);
      unwatch();
      subscription.unsubscribe();
      if (error) reject(error);
      else resolve(messages);
    };
    // A publish that is not permitted gets no answer; nats-server says so on the connection.
    const look = (): void => {
      if (denied.get().has(get)) done(new AskError("not_permitted", `NATS permission: you may not read ${streamName(kind)}`));
    };
    const subscription = nats.subscribe(inbox, {
      callback: (error, message: Msg) => {
        if (error) return done(new AskError("unavailable", error.message));
        const seq = message.headers?.get("Nats-Sequence");
        if (seq) {
          messages.push(stored(Number(seq), message));
          return;
        }
        if (message.headers?.code === 503) return done(new AskError("unavailable", `the stream ${streamName(kind)} does not answer`));
        done();
      },
    });
    const timer = setTimeout(() => done(new AskError("timeout", `the stream ${streamName(kind)} does not answer`)), PAGE_MS);
    const unwatch = denied.watch(look);
    nats.publish(get, JSON.stringify({ ...from, batch: most, ...(subject && { next_by_subj: subject }) }), {
      reply: inbox,
    });
  });
}

/** The stored events of one execution, as its history names them, with the time from which each is looked for. */
export async function eventsOf(namespace: string, id: string, history: readonly { seq: number; at: number }[]): Promise<Stored[]> {
  const found = new Map<number, Stored>();
  const decoder = new TextDecoder();
  for (const { seq, at } of history) {
    // The stream's clock is not Valkey's: begin a moment before.
    let from: From = { start_time: new Date(at - CLOCKS_MS).toISOString() };
    for (let turn = 0; turn < PAGES_PER_EVENT && !found.has(seq); turn += 1) {
      const messages = await page("AUDIT", from, PAGE, `${root()}.audit.${namespace}.execution.*`);
      for (const each of messages) {
        const text = decoder.decode(each.body);
        if (text.includes(id)) {
          const event = JSON.parse(text) as { id: string; seq: number };
          if (event.id === id) found.set(event.seq, each);
        }
      }
      const last = messages.at(-1);
      if (!last || messages.length < PAGE) break;
      from = { seq: last.seq + 1 };
    }
  }
  return [...found.values()].sort((a, b) => a.seq - b.seq);
}

function stored(seq: number, message: Msg): Stored {
  const own: [string, string][] = [];
  for (const [name, values] of message.headers ?? []) {
    if (!name.startsWith("Nats-") || name === "Nats-Msg-Id") own.push([name, values.join(", ")]);
  }
  return {
    seq,
    subject: message.headers?.get("Nats-Subject") ?? "",
    at: Date.parse(message.headers?.get("Nats-Time-Stamp") ?? ""),
    headers: own,
    body: message.data,
  };
}
