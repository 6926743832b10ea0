/** Failures: grouped by kind, category and normalised reason; a group's executions, and all of them again. */

import { useNavigate } from "@tanstack/react-router";
import { type ReactNode } from "react";
import { useList } from "../bus/useAsk";
import type { FailureGroup } from "../contract.gen";
import { count } from "../lib/format";
import { Offers } from "../ui/Offers";
import { Listed } from "../ui/Listed";
import type { Column } from "../ui/Table";
import { Ago, Empty, ExecutionLink, Page } from "../ui/parts";
import { Bulks, bulkOffers } from "./Bulk";

const COLUMNS: Column<FailureGroup>[] = [
  { name: "Kind", width: "minmax(5rem, 10rem)", cell: (x) => <strong>{x.kind}</strong> },
  { name: "Category", width: "7rem", wide: true, cell: (x) => <span className="mono">{x.category}</span> },
  { name: "Why", width: "minmax(6rem, 1fr)", cell: (x) => <span className="bad-text" title={x.reason}>{x.reason || "no reason was given"}</span> },
  { name: "Failed", width: "4.2rem", numeric: true, cell: (x) => count(x.failed) },
  { name: "Tried again", width: "5.4rem", numeric: true, wide: true, cell: (x) => count(x.retried) },
  { name: "First", width: "5.2rem", numeric: true, wide: true, cell: (x) => <Ago at={x.first_at} /> },
  { name: "Last", width: "5.2rem", numeric: true, wide: true, cell: (x) => <Ago at={x.last_at} /> },
  { name: "The last one", width: "8.6rem", wide: true, cell: (x) => <ExecutionLink id={x.sample_execution_id} /> },
  {
    name: "Actions",
    width: "4.5rem",
    cell: (x) => <Offers compact of={bulkOffers({ failure_group: x.group }, "replay")} label={`Actions for the failures of ${x.kind}`} />,
  },
];

/** The relay writes its counts down every few seconds, without an event: so they are asked for again a while after a failure. */
const WRITTEN_MS = 3000;

export function Failures(): ReactNode {
  const navigate = useNavigate();
  const groups = useList("failure.groups", {}, (event) => event.to === "failed" || event.to === "retry_wait", WRITTEN_MS);
  return (
    <Page title="Failures" lead="Alike but for numbers, ids and quoted texts is one group. The 1,000 that failed last are kept, for a week.">
      <Bulks />
      <Listed
        answer={groups}
        label="Failures"
        columns={COLUMNS}
        idOf={(x) => x.group}
        onOpen={(x) => void navigate({ to: "/executions", search: { group: x.group } })}
        empty={<Empty title="Nothing has failed">A failure is counted here some seconds after it happened.</Empty>}
      />
    </Page>
  );
}
