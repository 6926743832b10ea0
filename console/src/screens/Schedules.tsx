/** Schedules: what creates executions, when next, and what it has created. */

import { useNavigate, useSearch } from "@tanstack/react-router";
import { type ReactNode, useCallback } from "react";
import { pagesOf } from "../bus/forAll";
import { useAsk, useList } from "../bus/useAsk";
import type { Schedule } from "../contract.gen";
import { count, duration, instant, many } from "../lib/format";
import { ForAll, Runs } from "../ui/ForAll";
import { Listed } from "../ui/Listed";
import type { Column } from "../ui/Table";
import { Offers } from "../ui/Offers";
import { Statuses } from "../ui/Filters";
import { Ago, Empty, ExecutionLink, Failure, Page, Panel, State, VerbButton } from "../ui/parts";
import { createSchedule, scheduleOffers } from "./operating";

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
  { name: "Missed times", width: "6.4rem", wide: true, cell: (x) => <>{x.misfire.replace("_", " ")}{x.missed ? <span className="bad-text"> {count(x.missed)}</span> : null}</> },
  { name: "Fired", width: "4rem", numeric: true, wide: true, cell: (x) => count(x.fired) },
  { name: "Last execution", width: "8.6rem", wide: true, cell: (x) => (x.last_execution_id ? <ExecutionLink id={x.last_execution_id} /> : <span className="faint">–</span>) },
  { name: "Actions", width: "4.5rem", cell: (x) => <Offers compact of={scheduleOffers(x, open)} label={`Actions for the schedule of ${x.execution.kind}`} /> },
];

export const SCHEDULE_STATUSES = ["active", "paused", "finished"] as const;

export function Schedules(): ReactNode {
  const navigate = useNavigate();
  const { schedule, status } = useSearch({ from: "/schedules" });
  const open = (id: string): void => void navigate({ to: "/executions/$id", params: { id } });
  const wanted = { ...(status && { status }) };
  const schedules = useList("schedule.list", wanted, (event) => event.entity === "schedule");
  return (
    <Page
      title="Schedules"
      extra={
        <>
          <ForAll
            screen="/schedules"
            list={schedules.data}
            pages={pagesOf("schedule.list", wanted)}
            offersOf={(x) => scheduleOffers(x, open)}
            actions={[["schedule.trigger", "Trigger"], ["schedule.pause", "Pause"], ["schedule.resume", "Resume"], ["schedule.delete", "Delete"]]}
            which={status ? `schedules that are ${status}` : "no filter: all schedules"}
          />
          <VerbButton verb="schedule.create" kind="primary" onClick={createSchedule}>
            Create
          </VerbButton>
        </>
      }
    >
      <Runs screen="/schedules" />
      <Statuses of={SCHEDULE_STATUSES} at={status} all go={(next) => void navigate({ to: "/schedules", search: { schedule, status: next } })} />
      <Listed
        answer={schedules}
        label="Schedules"
        columns={columns(open)}
        idOf={(x) => x.schedule_id}
        onOpen={(x) => void navigate({ to: "/schedules", search: { status, schedule: schedule === x.schedule_id ? undefined : x.schedule_id } })}
        empty={<Empty title={status ? `No schedule is ${status}` : "No schedules yet"}>A schedule creates executions once, every so often, or by cron.</Empty>}
      />
      {schedules.data?.items.filter((each) => each.schedule_id === schedule).map((each) => <Times key={each.schedule_id} of={each} />)}
    </Page>
  );
}

const DUE = 20;

/** When a schedule is due next, and what it has left out. */
function Times({ of: x }: { of: Schedule }): ReactNode {
  const mine = useCallback((event: { id: string }) => event.id === x.schedule_id, [x.schedule_id]);
  const due = useAsk("schedule.times", { schedule_id: x.schedule_id, limit: DUE }, mine);
  return (
    <Panel title={`When ${x.execution.kind} is due`} extra={<span className="faint mono">{x.schedule_id}</span>}>
      {due.error ? <Failure error={due.error} retry={due.reload} /> : null}
      {due.data?.times.length ? (
        <ol className="times" aria-label="Next times">
          {due.data.times.map((at) => (
            <li key={at}>
              <span className="num">{instant(at)}</span> <Ago at={at} />
            </li>
          ))}
        </ol>
      ) : due.data ? (
        <Empty title={x.status === "paused" ? "It is paused: no time comes" : "No time comes any more"} />
      ) : null}
      <p className="panel-foot faint">
        {x.missed ? (
          <>
            {many(x.missed, "due time")} passed without a scheduler and were left out, last <Ago at={x.missed_at} />.{" "}
          </>
        ) : (
          "No due time was left out. "
        )}
        {x.misfire === "catch_up" ? "Times that pass while no scheduler runs are made up for." : "Of times that pass while no scheduler runs, only the latest is made up for, if it is less than a minute late."}
        {x.last_due_at ? (
          <>
            {" "}
            The last one was <Ago at={x.last_due_at} />
            {x.last_execution_id ? (
              <>
                : <ExecutionLink id={x.last_execution_id} />
              </>
            ) : null}
            .
          </>
        ) : null}
      </p>
    </Panel>
  );
}
