/** What can be done to lanes, workers, schedules, flows and waitpoints, each as one verb. */

import { kindNames, loadKinds, takes } from "../bus/kinds";
import type { Flow, Lane, Schedule, Waitpoint, WorkerInfo } from "../contract.gen";
import { act } from "../ui/Act";
import { type Offer, REASON, filled, offer, option, pretty, shell, signalFields } from "./actions";

export function laneOffers(lane: Lane): Offer[] {
  const name = lane.lane;
  const change = (verb: "lane.pause" | "lane.resume" | "lane.drain", title: string, says: string, status: string): Offer =>
    offer(title, lane.status === status ? `it is ${status} already` : null, {
      verb,
      title: `${title} ${name}`,
      says,
      danger: verb !== "lane.resume",
      request: { lane: name },
      fields: [REASON],
      cli: (r) => `lane ${title.toLowerCase()} ${name}${option("reason", r["reason"])}`,
    });
  return [
    change("lane.pause", "Pause", "Nothing is handed out any more. What runs goes on, and new work still comes in.", "paused"),
    change("lane.drain", "Drain", "What the lane has is still handed out; new work is refused.", "draining"),
    change("lane.resume", "Resume", "Work is handed out and accepted again.", "active"),
  ];
}

export function workerOffers(worker: WorkerInfo): Offer[] {
  return [
    offer("Drain", worker.status === "active" ? null : `it is ${worker.status}`, {
      verb: "worker.drain",
      title: "Drain worker",
      says: "A worker that is drained finishes its tasks and asks for no more.",
      danger: true,
      request: { worker_id: worker.worker_id },
      cli: () => `workers drain ${worker.worker_id}`,
    }),
  ];
}

export function scheduleOffers(s: Schedule, open: (id: string) => void): Offer[] {
  const id = s.schedule_id;
  const request = { schedule_id: id };
  const finished = s.status === "finished" ? "it has finished" : null;
  const paused = s.status === "paused";
  return [
    offer("Trigger now", finished, {
      verb: "schedule.trigger",
      title: "Trigger now",
      says: "One of its executions is created now. Its due times stay as they are.",
      request,
      cli: () => `schedule trigger ${id}`,
      then: (reply) => open(reply.execution_id),
    }),
    { verb: "schedule.update", name: "Edit", off: finished, go: () => updateSchedule(s) },
    offer("Pause", finished ?? (paused ? "it is paused already" : null), { verb: "schedule.pause", title: "Pause schedule", says: "Times that pass meanwhile do not happen.", request, cli: () => `schedule pause ${id}` }),
    offer("Resume", finished ?? (paused ? null : "it is not paused"), { verb: "schedule.resume", title: "Resume schedule", says: "Its next due time is the first one from now.", request, cli: () => `schedule resume ${id}` }),
    offer("Delete", null, { verb: "schedule.delete", title: "Delete schedule", says: "What it has created stays. This cannot be undone.", danger: true, request, cli: () => `schedule delete ${id}` }),
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
  const id = flow.flow_id;
  const request = { flow_id: id };
  const ended = ["finished", "failed", "cancelled"].includes(flow.status) ? `it has ended: ${flow.status}` : null;
  const ends = "Members that have not started are skipped; running ones may end. This cannot be undone.";
  return [
    offer("Start", ended ?? (flow.status === "created" ? null : "it has started"), { verb: "flow.start", title: "Start flow", says: "Members without dependencies become ready.", request, cli: () => `flow start ${id}` }),
    offer("Resume", ended ?? (flow.status === "waiting" ? null : "it does not wait"), { verb: "flow.resume", title: "Resume flow", says: "Whatever it waits for, it goes on.", request }),
    offer("Finish", ended, { verb: "flow.finish", title: "Finish flow", says: ends, danger: true, request }),
    offer("Fail", ended, { verb: "flow.fail", title: "Fail flow", says: ends, danger: true, request, fields: [{ ...REASON, optional: false }] }),
    offer("Cancel", ended, {
      verb: "flow.cancel",
      title: "Cancel flow",
      says: "The flow ends at once, and no member gets a lease any more. This cannot be undone.",
      danger: true,
      request,
      fields: [{ name: "policy", label: "Members to stop", kind: "choice", value: "cancel_all", choices: ["cancel_all", "cancel_pending", "flow_only"] }, REASON],
      cli: (r) => `flow cancel ${id}${option("policy", r["policy"])}${option("reason", r["reason"])}`,
    }),
  ];
}

export function waitpointOffers(w: Waitpoint): Offer[] {
  const { waitpoint_id, execution_id, waitpoint_key } = w;
  return [
    offer("Signal", w.status === "closed" ? "it is closed" : null, {
      verb: "signal.send",
      title: "Send a signal",
      says: "As an operator, without a token.",
      request: { execution_id, waitpoint_key },
      fields: signalFields(firstName(w)),
      cli: (r) => `send ${execution_id} ${shell(r["name"])} ${shell(JSON.stringify(r["payload"]))} --key ${waitpoint_key}${option("reason", r["reason"])}`,
    }),
    offer("Close", w.status === "pending" ? null : `only a pending waitpoint can be closed; this one is ${w.status}`, {
      verb: "waitpoint.close",
      title: "Close waitpoint",
      says: "Signals to it are refused from then on. This cannot be undone.",
      danger: true,
      request: { waitpoint_id },
      fields: [REASON],
      cli: (r) => `waitpoint close ${waitpoint_id}${option("reason", r["reason"])}`,
    }),
  ];
}

/** The first name in a condition that is no prefix, to have something to begin with. */
function firstName(w: Waitpoint): string {
  const found = /"name":"([^"*]+)"/.exec(JSON.stringify(w.condition ?? {}));
  return found?.[1] ?? "";
}
