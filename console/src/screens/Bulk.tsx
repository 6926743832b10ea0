/** Actions on all executions that match a filter: `execution.bulk`, its progress, and its stop. */

import { type ReactNode } from "react";
import { useAsk } from "../bus/useAsk";
import { refusal } from "../bus/link";
import { type Bulk, type ExecutionFilter, VERB_OF_ACTION } from "../contract.gen";
import { count } from "../lib/format";
import { type Field, act } from "../ui/Act";
import { Offers } from "../ui/Offers";
import { Ago, State, VerbButton, useNow } from "../ui/parts";
import { type Offer, REASON, option } from "./actions";
import { optionsOf } from "./filters";

/** A change that has ended is shown for so long. */
const SHOWN_MS = 10 * 60_000;
const RATE: Field = { name: "rate", label: "At most so many a second", kind: "number", value: "100" };

const words = (filter: ExecutionFilter): string => optionsOf(filter).map(([name, value]) => `${name} ${String(value)}`).join(", ") || "no filter: all executions";

const ACTIONS: { action: string; name: string; says: string; danger?: boolean; fields?: Field[] }[] = [
  { action: "replay", name: "Replay", says: "Those that have ended run again, each as a new execution." },
  { action: "run_now", name: "Run now", says: "Those that wait for a time are ready at once." },
  { action: "suspend", name: "Suspend", says: "Those that run stop until they are resumed.", fields: [REASON] },
  { action: "resume", name: "Resume", says: "Those that are suspended go on.", fields: [REASON] },
  { action: "change_priority", name: "Priority", says: "Higher runs sooner.", fields: [{ name: "priority", label: "Priority", kind: "number", value: "0" }] },
  { action: "set_tags", name: "Add tags", says: "They are added to the tags that are there.", fields: [{ name: "tags", label: "Tags", kind: "json", value: "{}" }] },
  {
    action: "signal",
    name: "Signal",
    says: "Each that waits gets this signal, without a token. Signals cannot be taken back.",
    danger: true,
    fields: [
      { name: "name", label: "Name", kind: "text", value: "" },
      { name: "payload", label: "Payload", kind: "json", value: "null" },
      { name: "waitpoint_key", label: "Key of the waitpoint", kind: "text", value: "", optional: true, hint: "Where an execution has several." },
      REASON,
    ],
  },
  { action: "revoke", name: "Revoke", says: "The workers that hold them lose them, and they are ready again.", danger: true, fields: [REASON] },
  {
    action: "cancel",
    name: "Cancel",
    says: "They end as canceled. This cannot be undone.",
    danger: true,
    fields: [REASON, { name: "grace_ms", label: "Grace, in milliseconds", kind: "number", value: "10000" }],
  },
];

/** Offer to change all that match. What it changes is what matched when it began. */
export function bulkOffers(filter: ExecutionFilter, only?: string): Offer[] {
  return ACTIONS.filter((each) => !only || each.action === only).map(({ action, name, says, danger, fields }) => ({
    verb: "execution.bulk",
    name: `${name} all`,
    danger,
    off: refusal(VERB_OF_ACTION[action] ?? action),
    go: () =>
      act({
        verb: "execution.bulk",
        title: `${name} all`,
        says: `${says} It goes on in the background, and can be stopped. Which: ${words(filter)}.`,
        danger,
        request: { filter, action, idempotency_key: crypto.randomUUID() },
        fields: [...(fields ?? []), RATE],
        cli: (r) =>
          `bulk start ${action.replaceAll("_", "-")}${optionsOf(filter).map(([key, value]) => option(key, value)).join("")}` +
          Object.entries((r["tags"] ?? {}) as Record<string, string>).map(([key, value]) => option("set", `${key}=${value}`)).join("") +
          ["reason", "grace_ms", "priority", "name", "rate"].map((key) => option(key.replace("_", "-"), r[key])).join("") +
          (r["payload"] === undefined ? "" : option("payload", JSON.stringify(r["payload"]))) +
          option("key", r["waitpoint_key"]),
      }),
  }));
}

export function BulkMenu({ filter }: { filter: ExecutionFilter }): ReactNode {
  return <Offers of={bulkOffers(filter)} label="Actions for all that match" name="All that match" />;
}

/** The bulk changes that go on, and those that have just ended. */
export function Bulks(): ReactNode {
  const now = useNow();
  const bulks = useAsk("bulk.list", { limit: 5 }, (event) => event.entity === "bulk");
  const shown = (bulks.data?.items ?? []).filter((each) => each.status === "running" || now - each.updated_at < SHOWN_MS);
  if (shown.length === 0) return null;
  return (
    <ul className="plain-list bulks" aria-label="Changes to all that match">
      {shown.map((each) => (
        <One key={each.bulk_id} of={each} />
      ))}
    </ul>
  );
}

function One({ of: x }: { of: Bulk }): ReactNode {
  return (
    <li data-bulk={x.bulk_id}>
      <State of={x.status} /> <strong>{[x.action.replace("_", " "), x.name].filter(Boolean).join(" ")}</strong> <span className="faint">{words(x.filter)}</span>{" "}
      <span className="num">
        {count(x.done)} done{x.refused ? `, ${count(x.refused)} refused` : ""}, {count(x.looked)} looked at
      </span>{" "}
      {x.by ? <span className="faint">by {x.by} </span> : null}
      <Ago at={x.updated_at} />{" "}
      {x.last_error ? <span className="bad-text">{String(x.last_error["code"])} </span> : null}
      {x.status === "running" ? (
        <VerbButton
          verb="bulk.stop"
          onClick={() =>
            act({
              verb: "bulk.stop",
              title: "Stop",
              says: "What it has done stays done; the rest is left as it is.",
              request: { bulk_id: x.bulk_id },
              cli: () => `bulk stop ${x.bulk_id}`,
            })
          }
        >
          Stop
        </VerbButton>
      ) : null}
    </li>
  );
}
