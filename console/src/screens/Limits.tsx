/** Limits: the quotas, concurrency keys and budgets without room, and whom each holds back. */

import { type ReactNode } from "react";
import { ask } from "../bus/link";
import { type List, useAsk } from "../bus/useAsk";
import type { BlockedLimit } from "../contract.gen";
import { many, preview } from "../lib/format";
import { ForAll, Runs } from "../ui/ForAll";
import { Offers } from "../ui/Offers";
import { Ago, Empty, ExecutionLink, Failure, Page, Panel, Waiting } from "../ui/parts";
import { type Offer, offer, shell } from "./actions";

function offers(x: BlockedLimit): Offer[] {
  const dimension = Object.keys((x.detail["dimensions"] ?? {}) as object)[0] ?? String(x.detail["dimension"] ?? "");
  if (x.kind !== "budget") return [];
  return [
    offer("Replenish", null, {
      verb: "budget.replenish",
      title: "Replenish budget",
      says: "Its limits are raised by so much; executions that it held back go on.",
      request: { budget_id: x.id, idempotency_key: crypto.randomUUID() },
      fields: [{ name: "dimensions", label: "By how much", kind: "json", value: JSON.stringify(dimension ? { [dimension]: 0 } : {}) }],
      cli: (r) => `budget replenish ${x.id} ${Object.entries((r["dimensions"] ?? {}) as object).map(([name, by]) => shell(`${name}=${String(by)}`)).join(" ")}`,
    }),
    offer("Reset", null, { verb: "budget.reset", title: "Reset budget", says: "Its use is 0 again; executions that it held back go on. This cannot be undone.", danger: true, request: { budget_id: x.id }, cli: () => `budget reset ${x.id}` }),
  ];
}

const MOST = 200;

/** The budgets among the limits that hold work back: one page, since the verb has no more. */
async function budgets(): Promise<List<BlockedLimit>> {
  return budgetsOf(await ask("limits.blocked", { limit: MOST }));
}

const budgetsOf = ({ items }: { items: BlockedLimit[] }): List<BlockedLimit> => ({ items: items.filter((each) => each.kind === "budget"), cursor: null });

/** What a limit's rule and use are, in a line. */
function told(detail: Record<string, unknown>): string {
  return Object.entries(detail)
    .filter(([name, value]) => value !== null && !["kind", "id", "quota_id", "budget_id"].includes(name))
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${preview(value, 60)}`)
    .join(", ");
}

export function Limits(): ReactNode {
  const blocked = useAsk("limits.blocked", { limit: MOST }, (event) => event.entity === "execution" || event.entity === "budget" || event.entity === "quota");
  return (
    <Page
      title="Limits"
      lead="Those without room that hold ready work back now, those that hold back most first."
      extra={
        <ForAll
          screen="/limits"
          list={blocked.data && budgetsOf(blocked.data)}
          pages={budgets}
          offersOf={offers}
          actions={[["budget.replenish", "Replenish"], ["budget.reset", "Reset"]]}
          which="budgets that hold work back"
        />
      }
    >
      <Runs screen="/limits" />
      {blocked.error ? <Failure error={blocked.error} retry={blocked.reload} /> : null}
      {!blocked.data ? (
        blocked.error ? null : (
          <Waiting />
        )
      ) : blocked.data.items.length === 0 ? (
        <Empty title="No limit holds anything back">Quotas, concurrency keys and budgets stand here while ready work waits for them.</Empty>
      ) : (
        blocked.data.items.map((x) => (
          <Panel
            key={x.kind + x.id}
            title={`${x.kind.replace("_", " ")} ${x.id}`}
            extra={offers(x).length ? <Offers compact of={offers(x)} label={`Actions for ${x.id}`} /> : null}
          >
            <p data-limit={x.id}>
              <strong>{many(x.waiting, "execution")}</strong> held back{x.lanes.length ? ` in ${x.lanes.join(", ")}` : ""}. <span className="faint">{told(x.detail)}</span>
              {x.look_again_at ? <span className="faint"> Looked at again <Ago at={x.look_again_at} />.</span> : null}
            </p>
            <Ids name="First to go" of={x.sample} />
            <Ids name="Who holds its slots" of={x.holders} />
          </Panel>
        ))
      )}
      {blocked.data?.more ? <p className="faint">There are more limits without room, which were not looked at.</p> : null}
    </Page>
  );
}

function Ids({ name, of }: { name: string; of: readonly string[] }): ReactNode {
  if (of.length === 0) return null;
  return (
    <p>
      <span className="faint">{name}: </span>
      {of.map((id) => (
        <span key={id}>
          <ExecutionLink id={id} />{" "}
        </span>
      ))}
    </p>
  );
}
