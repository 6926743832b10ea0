"""Wire up the scheduler: its endpoints, the hints that it listens to and its background work."""

from penstock import verbs
from penstock.bus.calls import parked
from penstock.machine.ops import scheduler as ops
from penstock.machine.references import References
from penstock.runtime import Context, Service
from penstock.runtime.parking import Parking
from penstock_scheduler.executions.control import Control
from penstock_scheduler.executions.durable import Durable
from penstock_scheduler.executions.execute import Execute
from penstock_scheduler.executions.verbs import Executions
from penstock_scheduler.executions.waits import Waits
from penstock_scheduler.explaining.verbs import Explanations
from penstock_scheduler.flows.changes import FlowChanges
from penstock_scheduler.flows.verbs import Flows
from penstock_scheduler.handing_out.admission import Admission
from penstock_scheduler.handing_out.eager import Eager
from penstock_scheduler.handing_out.grants import Grants
from penstock_scheduler.handing_out.handover import Handover
from penstock_scheduler.handing_out.work import Work
from penstock_scheduler.lanes.gauges import add_gauges
from penstock_scheduler.lanes.verbs import Lanes
from penstock_scheduler.lanes.workers import Registry
from penstock_scheduler.limits.blocked import Blocked
from penstock_scheduler.limits.budgets import Budgets
from penstock_scheduler.limits.quotas import Quotas
from penstock_scheduler.schedules.verbs import Schedules
from penstock_scheduler.searching.bulks import Bulks
from penstock_scheduler.searching.finder import Finder
from penstock_scheduler.searching.verbs import Searches
from penstock_scheduler.statistics import Statistics


def build(context: Context) -> Service:
    references = References(context.machine)
    quotas = Quotas(context.machine, references)
    budgets = Budgets(context.machine, references)
    schedules = Schedules(context.machine, references, context.spawn)
    control = Control(context.machine)
    durable = Durable(context.machine)
    explanations = Explanations(context.machine, Registry(context.machine))
    parking = Parking(context.settings.sweep_ms / 1000)
    flows = Flows(context.machine, references, parking)
    changes = FlowChanges(context.machine, references, context.settings.max_payload_bytes)
    lanes = Lanes(context.machine)
    depths = add_gauges(context, lanes)
    waits = Waits(context.machine, sweep_s=context.settings.sweep_ms / 1000)
    admission = Admission(context.machine, context.spawn)
    handover = Handover(context.machine, context.nats, context.settings.max_payload_bytes, context.spawn)
    work = Work(context.machine, admission, handover)
    grants = Grants(context.machine, admission)
    blocked = Blocked(context.machine)
    statistics = Statistics(context.machine)
    finder = Finder(context.machine, statistics.group)
    searches = Searches(finder)
    bulks = Bulks(context.machine, finder, context.spawn)

    def due(partition: int, done: ops.DueDone) -> None:
        """Do what the `due` op hands to the service: a schedule's fires, a step of a bulk change."""
        if steps := [each["bulk_id"] for each in done.outside if "bulk_id" in each]:
            bulks.due(steps)
        if fires := [each for each in done.outside if "schedule_id" in each]:
            schedules.due(partition, fires, done.now)

    context.due.on_result = due
    executions = Executions(context.machine, references, Eager(context.machine, work))

    async def drain() -> None:
        waits.drain()
        await parking.drain()
        await work.drain()

    context.listen("ready", work.ready)
    context.listen("done", waits.done)
    context.listen("answered", waits.answered)
    context.listen("flow_ended", parking.wake)
    context.listen("slot", admission.slot)
    context.listen("slot_check", admission.slot_check)
    context.listen("unblock", admission.unblock)
    return Service(
        name=verbs.SCHEDULER,
        endpoints={
            verbs.EXECUTION_CREATE: executions.create,
            verbs.EXECUTION_EXECUTE: parked(Execute(executions, waits).execute),
            verbs.EXECUTION_GET: executions.get,
            verbs.EXECUTION_LIST: executions.list,
            verbs.EXECUTION_SEARCH: searches.search,
            verbs.EXECUTION_HISTORY: executions.history,
            verbs.EXECUTION_WAIT: parked(waits.wait),
            verbs.EXECUTION_RUN_NOW: control.run_now,
            verbs.EXECUTION_CHANGE_PRIORITY: control.change_priority,
            verbs.EXECUTION_SET_TAGS: control.set_tags,
            verbs.EXECUTION_REPLAY: control.replay,
            verbs.EXECUTION_EXPLAIN: explanations.explain,
            verbs.EXECUTION_FORK: durable.fork,
            verbs.EXECUTION_QUERY: durable.query,
            verbs.EXECUTION_VERSIONS: durable.versions,
            verbs.WORK_NEXT: work.next,
            verbs.WORK_GRANT: grants.grant,
            verbs.LANE_LIST: lanes.list,
            verbs.LANE_PAUSE: lanes.pause,
            verbs.LANE_RESUME: lanes.resume,
            verbs.LANE_DRAIN: lanes.drain,
            verbs.EXECUTION_BULK: bulks.create,
            verbs.BULK_GET: bulks.get,
            verbs.BULK_LIST: bulks.list,
            verbs.BULK_STOP: bulks.stop,
            verbs.LANE_STATS: statistics.lane_stats,
            verbs.FAILURE_GROUPS: statistics.failure_groups,
            verbs.LIMITS_BLOCKED: blocked.list,
            verbs.QUOTA_CREATE: quotas.create,
            verbs.QUOTA_GET: quotas.get,
            verbs.QUOTA_DELETE: quotas.delete,
            verbs.SCHEDULE_CREATE: schedules.create,
            verbs.SCHEDULE_GET: schedules.get,
            verbs.SCHEDULE_LIST: schedules.list,
            verbs.SCHEDULE_TIMES: schedules.times,
            verbs.SCHEDULE_DELETE: schedules.delete,
            verbs.SCHEDULE_PAUSE: schedules.pause,
            verbs.SCHEDULE_RESUME: schedules.resume,
            verbs.SCHEDULE_TRIGGER: schedules.trigger,
            verbs.SCHEDULE_UPDATE: schedules.update,
            verbs.BUDGET_CREATE: budgets.create,
            verbs.BUDGET_GET: budgets.get,
            verbs.BUDGET_REPLENISH: budgets.replenish,
            verbs.BUDGET_RESET: budgets.reset,
            verbs.BUDGET_DELETE: budgets.delete,
            verbs.FLOW_CREATE: flows.create,
            verbs.FLOW_START: flows.start,
            verbs.FLOW_FINISH: changes.finish,
            verbs.FLOW_FAIL: changes.fail,
            verbs.FLOW_UPDATE_STATE: changes.update_state,
            verbs.FLOW_ADD_EXECUTION: changes.add_execution,
            verbs.FLOW_ADD_DEPENDENCY: changes.add_dependency,
            verbs.FLOW_SET_JOIN: changes.set_join,
            verbs.FLOW_GET: flows.get,
            verbs.FLOW_WAIT: flows.wait,
            verbs.FLOW_LIST: flows.list,
            verbs.FLOW_GRAPH: flows.graph,
        },
        background=[lambda: work.sweep(context.settings.sweep_ms / 1000), depths.run],
        start=handover.start,
        drain=drain,
        release=work.release,
        close=handover.stop,
    )
