/** The connection to NATS: made once, kept for as long as the page is open, and everything else asks through it. */

import {
  type Msg,
  headers as newHeaders,
  type NatsConnection,
  NoRespondersError,
  PermissionViolationError,
  RequestError,
  TimeoutError,
  nkeyAuthenticator,
  wsconnect,
} from "@nats-io/nats-core";
import { ROLES, SERVICE_OF, type Verbs } from "../contract.gen";
import { Store } from "../lib/store";
import { AskError } from "./errors";

export interface Config {
  nats_ws: string;
  root: string;
  secured: boolean;
}

/** A file of `penstock secure`: who holds it is that user. It stays in this tab. */
export interface Identity {
  name: string;
  role: string;
  nkey_seed: string;
}

export interface Link {
  status: "login" | "connecting" | "open" | "away" | "refused";
  /** Grows with each connection, so that what was asked before is asked again. */
  epoch: number;
  why?: string;
  identity?: Identity;
}

export type VerbName = keyof Verbs;

export const link = new Store<Link>({ status: "connecting", epoch: 0 });
/** What nats-server has refused this user, with its words. */
export const denied = new Store<ReadonlyMap<string, string>>(new Map());

let config: Config;
let connection: NatsConnection | null = null;
const KEPT = "penstock.identity";
const TIMEOUT_MS = 10_000;
const RETRY_MS = 500;

export const root = (): string => config.root;
export const secured = (): boolean => config.secured;
export const natsWs = (): string => config.nats_ws;

export async function begin(): Promise<void> {
  config = (await (await fetch("/config.json")).json()) as Config;
  const kept = sessionStorage.getItem(KEPT);
  if (!config.secured) void connect();
  else if (kept) void connect(JSON.parse(kept) as Identity);
  else link.set({ status: "login", epoch: 0 });
}

export function login(text: string): void {
  const identity = JSON.parse(text) as Identity;
  if (!identity.name || !identity.nkey_seed) throw new Error("this file is no identity of `penstock secure`");
  const kept = { name: identity.name, role: identity.role, nkey_seed: identity.nkey_seed };
  sessionStorage.setItem(KEPT, JSON.stringify(kept));
  denied.set(new Map());
  void connect(kept);
}

export async function logout(): Promise<void> {
  sessionStorage.removeItem(KEPT);
  const closing = connection;
  connection = null;
  await closing?.close();
  link.set({ status: "login", epoch: link.get().epoch });
}

async function connect(identity?: Identity): Promise<void> {
  link.set({ ...link.get(), status: "connecting", identity });
  for (;;) {
    try {
      const opened = await wsconnect({
        servers: config.nats_ws,
        name: "penstock-console",
        maxReconnectAttempts: -1,
        reconnectTimeWait: RETRY_MS,
        reconnectJitter: RETRY_MS,
        ignoreAuthErrorAbort: true,
        pingInterval: 10_000,
        maxPingOut: 2,
        ...(identity && {
          authenticator: nkeyAuthenticator(new TextEncoder().encode(identity.nkey_seed)),
          inboxPrefix: `_INBOX.${identity.name}`,
        }),
      });
      connection = opened;
      link.set({ status: "open", epoch: link.get().epoch + 1, identity });
      void watch(opened, identity);
      return;
    } catch (error) {
      const said = String(error);
      if (/authorization|permission/i.test(said)) {
        sessionStorage.removeItem(KEPT);
        link.set({ status: "refused", epoch: link.get().epoch, why: `NATS refuses ${identity?.name ?? "this login"}` });
        return;
      }
      link.set({ ...link.get(), status: "away", why: `NATS does not answer at ${config.nats_ws}` });
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS * 2));
    }
  }
}

async function watch(opened: NatsConnection, identity?: Identity): Promise<void> {
  for await (const status of opened.status()) {
    if (opened !== connection) return;
    if (status.type === "disconnect") {
      link.set({ ...link.get(), status: "away", why: "the connection to NATS was lost" });
    } else if (status.type === "reconnect") {
      link.set({ status: "open", epoch: link.get().epoch + 1, identity });
    } else if (status.type === "error" && status.error instanceof PermissionViolationError) {
      deny(status.error.subject, status.error);
    }
  }
}

function deny(subject: string, error: PermissionViolationError): void {
  const verb = subject.replace(`${config.root}.v1.`, "").replace(/\.as\..*$/, "");
  denied.set(new Map(denied.get()).set(verb, `NATS permission: ${error.operation} to ${subject} is denied`));
}

/** Why this user may not ask a verb, or null: what `penstock secure` gave the role, and what nats-server has refused. */
export function refusal(verb: string): string | null {
  const { identity } = link.get();
  const refused = denied.get().get(verb);
  if (refused) return refused;
  const may = identity && ROLES[identity.role];
  if (may && !may.includes(verb)) return `the role ${identity.role} has no NATS permission for ${verb}`;
  return null;
}

export function subjectOf(verb: string): string {
  const { identity } = link.get();
  return `${config.root}.v1.${verb}${identity ? `.as.${identity.name}` : ""}`;
}

export function open(): NatsConnection {
  if (!connection) throw new AskError("away", "there is no connection to NATS");
  return connection;
}

interface ErrorBody {
  error?: { code: string; message: string; detail?: unknown };
}

async function send(verb: VerbName, body: unknown): Promise<unknown> {
  const why = refusal(verb);
  if (why) throw new AskError("not_permitted", why);
  try {
    const reply = await open().request(subjectOf(verb), JSON.stringify(body), { timeout: TIMEOUT_MS });
    return reply.json<unknown>();
  } catch (error) {
    throw told(verb, error);
  }
}

function told(verb: VerbName, error: unknown): AskError {
  const cause = error instanceof RequestError && error.cause ? error.cause : error;
  if (cause instanceof AskError) return cause;
  if (cause instanceof PermissionViolationError) {
    deny(subjectOf(verb), cause);
    return new AskError("not_permitted", refusal(verb) ?? cause.message);
  }
  if (cause instanceof NoRespondersError) {
    return new AskError("no_service", `nobody answers ${verb}: the ${SERVICE_OF[verb]} does not run, or is older than this verb`);
  }
  if (cause instanceof TimeoutError) return new AskError("timeout", `no answer to ${verb} in ${TIMEOUT_MS / 1000} s`);
  return new AskError("away", `no answer to ${verb}: ${cause instanceof Error ? cause.message : String(cause)}`);
}

function unwrap<T>(answer: unknown): T {
  const { error } = (answer ?? {}) as ErrorBody;
  if (error) throw new AskError(error.code, error.message, error.detail);
  return answer as T;
}

/** Ask one verb. Throws AskError. */
export async function ask<V extends VerbName>(verb: V, request: Verbs[V]["request"]): Promise<Verbs[V]["reply"]> {
  return unwrap(await send(verb, request));
}

export type Outcome<T> = { ok: T } | { error: AskError };

/** Ask one verb many times in one message. Throws AskError if the whole of it fails. */
export async function askMany<V extends VerbName>(
  verb: V,
  requests: Verbs[V]["request"][],
): Promise<Outcome<Verbs[V]["reply"]>[]> {
  if (requests.length === 0) return [];
  const answers = unwrap<({ ok?: Verbs[V]["reply"] } & ErrorBody)[]>(await send(verb, requests));
  return answers.map((each) =>
    each.error
      ? { error: new AskError(each.error.code, each.error.message, each.error.detail) }
      : { ok: each.ok as Verbs[V]["reply"] },
  );
}

/** Publish a message into the stream that holds its subject; returns when it is stored. Throws AskError. */
export async function publishStored(subject: string, headers: readonly [string, string][], body: Uint8Array): Promise<void> {
  const all = newHeaders();
  for (const [name, value] of headers) all.append(name, value);
  let stored: { error?: { description: string } };
  try {
    stored = (await open().request(subject, body, { timeout: TIMEOUT_MS, headers: all })).json();
  } catch (error) {
    const cause = error instanceof RequestError && error.cause ? error.cause : error;
    if (cause instanceof PermissionViolationError) {
      deny(subject, cause);
      throw new AskError("not_permitted", `NATS permission: you may not publish to ${subject}`);
    }
    if (cause instanceof NoRespondersError) throw new AskError("unavailable", `no stream takes ${subject}`);
    throw new AskError("unavailable", `${subject} was not stored: ${String(cause)}`);
  }
  if (stored.error) throw new AskError("unavailable", `${subject} was not stored: ${stored.error.description}`);
}

/** Hear a subject until the returned function is called. Survives reconnects. */
export function hear(subject: string, callback: (message: Msg) => void): () => void {
  const subscription = open().subscribe(subject, {
    callback: (error, message) => {
      if (error instanceof PermissionViolationError) deny(subject, error);
      else if (!error) callback(message);
    },
  });
  return () => subscription.unsubscribe();
}
