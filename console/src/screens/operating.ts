/** What can be done to lanes, workers, schedules, flows and waitpoints, each as one verb. */

import { kindNames, loadKinds, takes } from "../bus/kinds";
import type { Flow, Lane, Schedule, Waitpoint, WorkerInfo } from "../contract.gen";
import { act } from "../ui/Act";
import { type Offer, REASON, filled, option, pretty, shell } from "./actions";

export function laneOffers(lane: Lane): Offer[] {
  const name = lane.lane;
  const change = (verb: "lane.pause" | "lane.resume" | "lane.drain", title: string, says: string, off: string | null): Offer => ({
    verb,
    name: title,
    danger: verb !== "lane.resume",
    off,
    go: () =>
      act({
        verb,
        title: `${title} ${name}`,
        says,
        danger: verb !== "lane.resume",
        request: { lane: name },
        fields: [REASON],
        cli: (r) => `lane ${title.toLowerCase()} ${name}${option("reason", r["reason"])}`,
      }),
  });
  const now = (status: string): string | null => (lane.status === status ? `it is ${status} already` : null);
  return [
    change("lane.pause", "Pause", "Nothing is handed out any more. What runs goes on, and new work still comes in.", now("paused")),
    change("lane.drain", "Drain", "What the lane has is still handed out; new work is refused.", now("draining")),
    change("lane.resume", "Resume", "Work is handed out and accepted again.", now("active")),
  ];
}

export function workerOffers(worker: WorkerInfo): Offer[] {
  return [
    {
      verb: "worker.drain",
      name: "Drain",
      danger: true,
      off: worker.status === "active" ? null : `it is ${worker.status}`,
      go: () =>
        act({
          verb: "worker.drain",
          title: "Drain worker",
          says: `${worker.worker_id} finishes its tasks and asks for no more.`,
          danger: true,
          request: { worker_id: worker.worker_id },
          cli: () => `workers drain ${worker.worker_id}`,
        }),
    },
  ];
}

export function scheduleOffers(s: Schedule, open: (id: string) => void): Offer[] {
  const id = { schedule_id: s.schedule_id };
  const finished = s.status === "finished" ? "it has finished" : null;
  return [
    {
      verb: "schedule.trigger",
      name: "Trigger now",
      off: finished,
      go: () =>
        act({
          verb: "schedule.trigger",
          title: "Trigger now",
          says: "One of its executions is created now. Its due times stay as they are.",
          request: id,
          cli: () => `schedule trigger ${s.schedule_id}`,
          then: (reply) => open(reply.execution_id),
        }),
    },
    { verb: "schedule.update", name: "Edit", off: finished, go: () => updateSchedule(s) },
    { verb: "schedule.pause", name: "Pause", off: finished ?? (s.status === "paused" ? "it is paused already" : null), go: () => act({ verb: "schedule.pause", title: "Pause schedule", says: "Times that pass meanwhile do not happen.", request: id, cli: () => `schedule pause ${s.schedule_id}` }) },
    { verb: "schedule.resume", name: "Resume", off: finished ?? (s.status === "paused" ? null : "it is not paused"), go: () => act({ verb: "schedule.resume", title: "Resume schedule", says: "Its next due time is the first one from now.", request: id, cli: () => `schedule resume ${s.schedule_id}` }) },
    { verb: "schedule.delete", name: "Delete", danger: true, off: null, go: () => act({ verb: "schedule.delete", title: "Delete schedule", says: "What it has created stays. This cannot be undone.", danger: true, request: id, cli: () => `schedule delete ${s.schedule_id}` }) },
  ];
}

function updateSchedule(s: Schedule): void {
  act({
    verb: "schedule.update",
    title: "Edit schedule",
    says: "With another timing its due times begin anew.",
    request: {},
    fields: [
      { name: "execution", label: "Execution", kind: "json", value: pretty(s.execution) },
      { name: "cron", label: "Cron", kind: "text", value: s.cron ?? "", optional: true },
      { name: "timezone", label: "Time zone of the cron", kind: "text", value: s.timezone, optional: true },
      { name: "every_ms", label: "Every, in milliseconds", kind: "number", value: s.every_ms === null ? "" : String(s.every_ms), optional: true },
      { name: "misfire", label: "Missed times", kind: "choice", value: s.misfire, choices: ["catch_up", "skip"] },
    ],
    // Only what differs: the same timing, sent again, would begin anew.
    make: ({ execution, cron, timezone, every_ms, misfire }) => {
      if (cron && every_ms) throw new Error("give either a cron expression or an interval");
      const changed = {
        ...(JSON.stringify(execution) !== JSON.stringify(s.execution) ? { execution } : {}),
        ...(cron && (cron !== s.cron || timezone !== s.timezone) ? { cron, timezone } : {}),
        ...(every_ms && every_ms !== s.every_ms ? { every_ms } : {}),
        ...(misfire !== s.misfire ? { misfire } : {}),
      };
      if (Object.keys(changed).length === 0) throw new Error("nothing is changed yet");
      return { schedule_id: s.schedule_id, ...changed };
    },
  });
}

export function createSchedule(): void {
  void loadKinds();
  act({
    verb: "schedule.create",
    title: "Create schedule",
    says: "It creates an execution at each of its times.",
    request: {},
    fields: [
      { name: "kind", label: "Kind", kind: "text", value: "", options: kindNames, fill: filled, about: takes },
      { name: "lane", label: "Lane", kind: "text", value: "default" },
      { name: "input", label: "Input", kind: "json", value: "null", inputOf: (values) => values["kind"] ?? "" },
      { name: "cron", label: "Cron", kind: "text", value: "", optional: true, hint: "Five fields, or six with seconds in front; or leave it empty and give an interval." },
      { name: "timezone", label: "Time zone of the cron", kind: "text", value: Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC", optional: true },
      { name: "every_ms", label: "Every, in milliseconds", kind: "number", value: "", optional: true },
      { name: "misfire", label: "Missed times", kind: "choice", value: "catch_up", choices: ["catch_up", "skip"] },
    ],
    make: ({ kind, lane, input, timezone, cron, every_ms, ...rest }) => {
      if (!cron === !every_ms) throw new Error("give either a cron expression or an interval");
      return { execution: { kind, lane, input }, ...(cron ? { cron, timezone } : { every_ms }), ...rest };
    },
  });
}

export function flowOffers(flow: Flow): Offer[] {
  const id = { flow_id: flow.flow_id };
  const ended = ["finished", "failed", "cancelled"].includes(flow.status) ? `it has ended: ${flow.status}` : null;
  return [
    { verb: "flow.start", name: "Start", off: ended ?? (flow.status === "created" ? null : "it has started"), go: () => act({ verb: "flow.start", title: "Start flow", says: "Members without dependencies become ready.", request: id, cli: () => `flow start ${flow.flow_id}` }) },
    { verb: "flow.resume", name: "Resume", off: ended ?? (flow.status === "waiting" ? null : "it does not wait"), go: () => act({ verb: "flow.resume", title: "Resume flow", says: "Whatever it waits for, it goes on.", request: id }) },
    { verb: "flow.finish", name: "Finish", danger: true, off: ended, go: () => act({ verb: "flow.finish", title: "Finish flow", says: "Members that have not started are skipped; running ones may end. This cannot be undone.", danger: true, request: id }) },
    { verb: "flow.fail", name: "Fail", danger: true, off: ended, go: () => act({ verb: "flow.fail", title: "Fail flow", says: "Members that have not started are skipped; running ones may end. This cannot be undone.", danger: true, request: id, fields: [{ ...REASON, optional: false }] }) },
    {
      verb: "flow.cancel",
      name: "Cancel",
      danger: true,
      off: ended,
      go: () =>
        act({
          verb: "flow.cancel",
          title: "Cancel flow",
          says: "The flow ends at once, and no member gets a lease any more. This cannot be undone.",
          danger: true,
          request: id,
          fields: [{ name: "policy", label: "Members to stop", kind: "choice", value: "cancel_all", choices: ["cancel_all", "cancel_pending", "flow_only"] }, REASON],
          cli: (r) => `flow cancel ${flow.flow_id}${option("policy", r["policy"])}${option("reason", r["reason"])}`,
        }),
    },
  ];
}

export function waitpointOffers(w: Waitpoint): Offer[] {
  return [
    {
      verb: "signal.send",
      name: "Signal",
      off: w.status === "closed" ? "it is closed" : null,
      go: () =>
        act({
          verb: "signal.send",
          title: "Send a signal",
          says: "As an operator, without a token.",
          request: { execution_id: w.execution_id, waitpoint_key: w.waitpoint_key },
          fields: [
            { name: "name", label: "Name", kind: "text", value: firstName(w) },
            { name: "payload", label: "Payload", kind: "json", value: "null" },
            REASON,
          ],
          cli: (r) => `send ${w.execution_id} ${shell(r["name"])} ${shell(JSON.stringify(r["payload"]))} --key ${w.waitpoint_key}${option("reason", r["reason"])}`,
        }),
    },
    {
      verb: "waitpoint.close",
      name: "Close",
      danger: true,
      off: w.status === "pending" ? null : `only a pending waitpoint can be closed; this one is ${w.status}`,
      go: () => act({ verb: "waitpoint.close", title: "Close waitpoint", says: "Signals to it are refused from then on. This cannot be undone.", danger: true, request: { waitpoint_id: w.waitpoint_id }, fields: [REASON] }),
    },
  ];
}

/** The first name in a condition that is no prefix, to have something to begin with. */
function firstName(w: Waitpoint): string {
  const found = /"name":"([^"*]+)"/.exec(JSON.stringify(w.condition ?? {}));
  return found?.[1] ?? "";
}
