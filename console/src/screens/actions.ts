/** What can be done to executions, each as one verb, and what all actions are made of. */

import type { Entry, ExecutionRecord } from "../contract.gen";
import { TERMINAL } from "../contract.gen";
import { type Action, type Field, act } from "../ui/Act";
import type { VerbName } from "../bus/link";
import { kindNames, kinds, loadKinds, takes } from "../bus/kinds";
import { example } from "../lib/schema";

export const pretty = (value: unknown): string => JSON.stringify(value, null, 2);
export const REASON: Field = { name: "reason", label: "Reason", kind: "text", value: "", optional: true, hint: "It stands in the audit event." };
export const option = (name: string, value: unknown): string => (value === undefined || value === "" ? "" : ` --${name} ${shell(value)}`);
export const shell = (value: unknown): string => {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return /^[\w./:=-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
};

export interface Offer {
  verb: string;
  name: string;
  danger?: boolean;
  /** Why it cannot be done to this one now. */
  off: string | null;
  go: () => void;
  /** What is asked first, and then sent, where that is one action: it can be done to all that match too. */
  action?: Action;
}

/** Offer one action; `off`: why it cannot be done now. */
export function offer<V extends VerbName>(name: string, off: string | null, action: Action<V>): Offer {
  return { verb: action.verb, name, danger: !!action.danger, off, go: () => act(action), action: action as unknown as Action };
}

/** What is asked of a signal; `name`: of one that is waited for. */
export const signalFields = (name = ""): Field[] => [
  { name: "name", label: "Name", kind: "text", value: name },
  { name: "payload", label: "Payload", kind: "json", value: "null" },
  REASON,
];

/** What the form has for a kind that a worker has told of: its input's shape, and its lane. */
export function filled(kind: string): Record<string, string> {
  const known = kinds.get().find((each) => each.kind === kind);
  if (!known) return {};
  return { ...(known.input && { input: pretty(example(known.input)) }), ...(known.lanes[0] && { lane: known.lanes[0] }) };
}

export function submit(then: (id: string) => void, like?: ExecutionRecord): void {
  void loadKinds();
  act({
    verb: "execution.create",
    title: like ? "Submit again" : "Submit",
    says: like ? "A new execution of the same kind. The old one stays as it is." : "A new execution; it begins as soon as a worker takes it.",
    request: like ? { ...(Object.keys(like.tags).length && { tags: like.tags }), ...(like.priority && { priority: like.priority }) } : {},
    fields: [
      { name: "kind", label: "Kind", kind: "text", value: like?.kind ?? "", options: kindNames, fill: like ? undefined : filled, about: takes },
      { name: "lane", label: "Lane", kind: "text", value: like?.lane ?? "default" },
      { name: "input", label: "Input", kind: "json", value: like ? pretty(like.input) : "{}", inputOf: (values) => values["kind"] ?? "" },
      { name: "max_attempts", label: "Attempts", kind: "number", value: String(like?.max_attempts ?? 1) },
    ],
    cli: (r) => `submit ${shell(r["kind"])} ${shell(JSON.stringify(r["input"]))}${option("lane", r["lane"])}${option("max-attempts", r["max_attempts"])}`,
    then: (reply) => then(reply.execution_id),
  });
}

export function executionOffers(x: ExecutionRecord, open: (id: string) => void): Offer[] {
  const execution_id = x.execution_id;
  const id = { execution_id };
  const ended = TERMINAL.has(x.state) ? `it has ended: ${x.state}` : null;
  const alive = ended ? null : `it has not ended: ${x.state}`;
  const held = x.state === "leased" || x.state === "running";
  return [
    {
      verb: "execution.replay",
      name: "Replay",
      off: alive,
      go: () => {
        void loadKinds();
        act({
          verb: "execution.replay",
          title: "Replay",
          says: "A new execution with the same spec. The input may be another.",
          request: id,
          fields: [{ name: "input", label: "Input", kind: "json", value: pretty(x.input), inputOf: () => x.kind }],
          cli: (r) => `replay ${execution_id} ${shell(JSON.stringify(r["input"]))}`,
          then: (reply) => open(reply.execution_id),
        });
      },
    },
    { verb: "execution.create", name: "Submit again", off: null, go: () => submit(open, x) },
    offer("Run now", ended ?? (["scheduled", "retry_wait", "ready"].includes(x.state) && x.reason !== "dependencies" ? null : "it waits for no time"), {
      verb: "execution.run_now",
      title: "Run now",
      says: "It stops waiting for its time, and is ready at once.",
      request: id,
      cli: () => `run-now ${execution_id}`,
    }),
    offer("Priority", ended, {
      verb: "execution.change_priority",
      title: "Change priority",
      says: "Its place in the queue changes at once. Higher is sooner, from -128 to 127.",
      request: id,
      fields: [{ name: "priority", label: "Priority", kind: "number", value: String(x.priority) }],
      cli: (r) => `priority ${execution_id} ${String(r["priority"])}`,
    }),
    offer("Tags", null, {
      verb: "execution.set_tags",
      title: "Set tags",
      says: "These replace all of its tags.",
      request: id,
      fields: [{ name: "tags", label: "Tags", kind: "json", value: pretty(x.tags) }],
      cli: (r) => `tag ${execution_id} ${Object.entries((r["tags"] ?? {}) as Record<string, string>).map(([k, v]) => shell(`${k}=${v}`)).join(" ")}`,
    }),
    offer("Signal", ended, {
      verb: "signal.send",
      title: "Send a signal",
      says: "As an operator, without a token, to the waitpoint that it waits on.",
      request: id,
      fields: signalFields(),
      cli: (r) => `send ${execution_id} ${shell(r["name"])} ${shell(JSON.stringify(r["payload"]))}${option("reason", r["reason"])}`,
    }),
    offer("Suspend", ended ?? (x.state === "running" ? null : "it does not run"), {
      verb: "execution.suspend",
      title: "Suspend",
      says: "Its worker is told to stop; no attempt is counted. Resume lets it go on.",
      request: id,
      fields: [REASON],
      cli: (r) => `suspend ${execution_id}${option("reason", r["reason"])}`,
    }),
    offer("Resume", ended ?? (x.state === "suspended" ? null : "it is not suspended"), {
      verb: "execution.resume",
      title: "Resume",
      says: "It goes on with the same attempt, whatever it waits for.",
      request: id,
      fields: [REASON],
      cli: (r) => `resume ${execution_id}${option("reason", r["reason"])}`,
    }),
    offer("Revoke lease", ended ?? (held ? null : "no worker holds it"), {
      verb: "lease.revoke",
      title: "Revoke lease",
      says: "The worker that holds it loses it, and the execution is ready again.",
      danger: true,
      request: id,
      fields: [REASON],
      cli: (r) => `revoke ${execution_id}${option("reason", r["reason"])}`,
    }),
    offer("Cancel", ended, {
      verb: "execution.cancel",
      title: "Cancel execution",
      says: "It ends as canceled. A worker that holds it is asked to stop first. This cannot be undone.",
      danger: true,
      request: id,
      fields: [REASON, { name: "grace_ms", label: "Grace, in milliseconds", kind: "number", value: "10000", hint: "After this the lease is revoked; 0: at once." }],
      cli: (r) => `cancel ${execution_id}${option("reason", r["reason"])}${option("grace-ms", r["grace_ms"])}`,
    }),
  ];
}

/** Begin a durable function again with what it had done before this step, or up to and with it. */
export function fork(x: ExecutionRecord, entry: Pick<Entry, "key">, open: (id: string) => void): void {
  void loadKinds();
  act({
    verb: "execution.fork",
    title: "Fork",
    says: `A new execution that has done what this one did before ${entry.key}, and does that and the rest itself. The old one stays as it is.`,
    request: { execution_id: x.execution_id, before_key: entry.key, idempotency_key: crypto.randomUUID() },
    fields: [{ name: "input", label: "Input", kind: "json", value: pretty(x.input), inputOf: () => x.kind }],
    cli: (r) => `fork ${x.execution_id} ${shell(JSON.stringify(r["input"]))}${option("before", entry.key)}`,
    then: (reply) => open(reply.execution_id),
  });
}
