/** Schedules: what creates executions, when next, and what it has created. */

import { useNavigate } from "@tanstack/react-router";
import { type ReactNode } from "react";
import { useAsk } from "../bus/useAsk";
import type { Schedule } from "../contract.gen";
import { count, duration, instant } from "../lib/format";
import { type Column, Table } from "../ui/Table";
import { Offers } from "../ui/Offers";
import { Ago, Empty, ExecutionLink, Failure, Page, State, VerbButton, Waiting } from "../ui/parts";
import { createSchedule, scheduleOffers } from "./actions";

function timing(x: Schedule): string {
  if (x.cron) return `${x.cron} ${x.timezone}`;
  if (x.every_ms) return `every ${duration(x.every_ms)}${x.count ? `, ${count(x.count)} times` : ""}`;
  return x.at ? `once, ${instant(x.at)}` : "";
}

const columns = (open: (id: string) => void): Column<Schedule>[] => [
  { name: "Kind", width: "minmax(5rem, 10rem)", cell: (x) => <strong>{x.execution.kind}</strong> },
  { name: "Status", wide: true, width: "5.5rem", cell: (x) => <State of={x.status} /> },
  { name: "When", width: "minmax(7rem, 1fr)", cell: (x) => <span className="mono">{timing(x)}</span> },
  { name: "Next", wide: true, width: "5.2rem", numeric: true, cell: (x) => <Ago at={x.next_at} /> },
  { name: "Lane", width: "6rem", wide: true, cell: (x) => x.execution.lane ?? "default" },
  { name: "Missed times", width: "5.6rem", wide: true, cell: (x) => x.misfire.replace("_", " ") },
  { name: "Fired", width: "4rem", numeric: true, wide: true, cell: (x) => count(x.fired) },
  { name: "Last execution", width: "8.6rem", wide: true, cell: (x) => (x.last_execution_id ? <ExecutionLink id={x.last_execution_id} /> : <span className="faint">–</span>) },
  { name: "Actions", width: "4.5rem", cell: (x) => <Offers compact of={scheduleOffers(x, open)} label={`Actions for the schedule of ${x.execution.kind}`} /> },
];

export function Schedules(): ReactNode {
  const navigate = useNavigate();
  const schedules = useAsk("schedule.list", { limit: 1000 }, (event) => event.entity === "schedule");
  return (
    <Page
      title="Schedules"
      extra={
        <VerbButton verb="schedule.create" kind="primary" onClick={createSchedule}>
          Create
        </VerbButton>
      }
    >
      {schedules.error ? <Failure error={schedules.error} retry={schedules.reload} /> : null}
      {schedules.data ? (
        <Table
          tall
          label="Schedules"
          columns={columns((id) => void navigate({ to: "/executions/$id", params: { id } }))}
          rows={schedules.data.items}
          idOf={(x) => x.schedule_id}
          empty={<Empty title="No schedules yet">A schedule creates executions once, every so often, or by cron.</Empty>}
        />
      ) : schedules.error ? null : (
        <Waiting />
      )}
    </Page>
  );
}
