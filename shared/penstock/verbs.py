"""Every verb of the contract: the service that answers it, its request type and its reply type.

The endpoints, their JSON Schemas, the SDK's calls and the table in docs/contract.md come from here.
A verb's subject is `<root>.v1.<name>`.
"""

from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from penstock.messages import cancellation as ca
from penstock.messages import control as c
from penstock.messages import executions as e
from penstock.messages import flows as f
from penstock.messages import frames as fr
from penstock.messages import journal as j
from penstock.messages import lanes as la
from penstock.messages import leases as le
from penstock.messages import limits as li
from penstock.messages import mirror_rules as mr
from penstock.messages import schedules as sc
from penstock.messages import search as se
from penstock.messages import signals as s
from penstock.messages import statistics as st
from penstock.messages import triggers as tr
from penstock.messages import workers as w
from penstock.messages.common import Page, Record, Reply, Request, StateReply

Req = TypeVar("Req", bound=Request)
Rep_co = TypeVar("Rep_co", bound=Reply, covariant=True)

MAX_BATCH: Final = 10_000


class Verb(Struct, Generic[Req, Rep_co], frozen=True):
    """One endpoint: `name` is `<resource>.<verb>`; `batch` says whether it also takes an array of requests."""

    name: str
    service: str
    request: type[Req]
    reply: type[Rep_co]
    batch: bool = False

    @property
    def endpoint(self) -> str:
        """The endpoint's name in NATS micro, which allows no dots."""
        return self.name.replace(".", "_")

    def subject(self, root: str) -> str:
        return f"{root}.v1.{self.name}"


SCHEDULER: Final = "scheduler"
LEASE_KEEPER: Final = "lease-keeper"
SIGNAL_ROUTER: Final = "signal-router"
MIRROR_OBSERVER: Final = "mirror-observer"
CANCEL_RECONCILER: Final = "cancel-reconciler"
AUDIT_RELAY: Final = "audit-relay"
DESCRIPTIONS: Final = {
    SCHEDULER: "takes executions and flows in, hands ready work to workers, keeps limits and schedules",
    LEASE_KEEPER: "leases, renewals and outcomes of what workers hold",
    SIGNAL_ROUTER: "waitpoints, and the signals that wake what is suspended",
    MIRROR_OBSERVER: "flows that mirror work which somebody else runs",
    CANCEL_RECONCILER: "stops executions and flows, until they have stopped",
    AUDIT_RELAY: "carries every change of state from Valkey to the audit stream",
}
"""The services, each with its description in service discovery."""
SERVICES: Final = tuple(DESCRIPTIONS)

EXECUTION_CREATE = Verb("execution.create", SCHEDULER, e.ExecutionCreate, e.ExecutionCreated, True)
EXECUTION_EXECUTE = Verb("execution.execute", SCHEDULER, e.ExecutionExecute, Record, True)
EXECUTION_GET = Verb("execution.get", SCHEDULER, e.ExecutionGet, Record, True)
EXECUTION_LIST = Verb("execution.list", SCHEDULER, e.ExecutionList, Page[Record], True)
EXECUTION_SEARCH = Verb("execution.search", SCHEDULER, se.ExecutionSearch, se.Found, True)
EXECUTION_HISTORY = Verb("execution.history", SCHEDULER, e.ExecutionHistory, Page[e.ExecutionEvent], True)
EXECUTION_WAIT = Verb("execution.wait", SCHEDULER, e.ExecutionWait, Record, True)
EXECUTION_RUN_NOW = Verb("execution.run_now", SCHEDULER, c.ExecutionRunNow, Record, True)
EXECUTION_CHANGE_PRIORITY = Verb(
    "execution.change_priority", SCHEDULER, c.ExecutionChangePriority, Record, True
)
EXECUTION_SET_TAGS = Verb("execution.set_tags", SCHEDULER, c.ExecutionSetTags, Record, True)
EXECUTION_REPLAY = Verb("execution.replay", SCHEDULER, c.ExecutionReplay, c.Replayed, True)
EXECUTION_EXPLAIN = Verb("execution.explain", SCHEDULER, c.ExecutionExplain, c.Explanation, True)
EXECUTION_FORK = Verb("execution.fork", SCHEDULER, j.ExecutionFork, j.Forked, True)
EXECUTION_QUERY = Verb("execution.query", SCHEDULER, j.ExecutionQuery, j.Queried, True)
EXECUTION_VERSIONS = Verb("execution.versions", SCHEDULER, j.ExecutionVersions, Page[j.VersionCount], True)
WORK_NEXT = Verb("work.next", SCHEDULER, e.WorkNext, le.Tasks)
WORK_GRANT = Verb("work.grant", SCHEDULER, e.WorkGrant, Page[e.Grant])
LANE_LIST = Verb("lane.list", SCHEDULER, e.LaneList, Page[e.Lane])
LANE_PAUSE = Verb("lane.pause", SCHEDULER, la.LaneChange, e.Lane)
LANE_RESUME = Verb("lane.resume", SCHEDULER, la.LaneChange, e.Lane)
LANE_DRAIN = Verb("lane.drain", SCHEDULER, la.LaneChange, e.Lane)
EXECUTION_BULK = Verb("execution.bulk", SCHEDULER, se.ExecutionBulk, se.Bulk, True)
BULK_GET = Verb("bulk.get", SCHEDULER, se.BulkGet, se.Bulk)
BULK_LIST = Verb("bulk.list", SCHEDULER, se.BulkList, Page[se.Bulk])
BULK_STOP = Verb("bulk.stop", SCHEDULER, se.BulkGet, se.Bulk)
LANE_STATS = Verb("lane.stats", SCHEDULER, st.LaneStatsGet, st.LaneStats, True)
FAILURE_GROUPS = Verb("failure.groups", SCHEDULER, st.FailureGroups, Page[st.FailureGroup])
LIMITS_BLOCKED = Verb("limits.blocked", SCHEDULER, st.LimitsBlocked, st.BlockedLimits)
QUOTA_CREATE = Verb("quota.create", SCHEDULER, li.QuotaCreate, li.Quota)
QUOTA_GET = Verb("quota.get", SCHEDULER, li.QuotaGet, li.Quota)
QUOTA_DELETE = Verb("quota.delete", SCHEDULER, li.QuotaGet, li.Quota)
SCHEDULE_CREATE = Verb("schedule.create", SCHEDULER, sc.ScheduleCreate, sc.Schedule)
SCHEDULE_GET = Verb("schedule.get", SCHEDULER, sc.ScheduleGet, sc.Schedule)
SCHEDULE_LIST = Verb("schedule.list", SCHEDULER, sc.ScheduleList, Page[sc.Schedule])
SCHEDULE_TIMES = Verb("schedule.times", SCHEDULER, sc.ScheduleTimes, sc.DueTimes)
SCHEDULE_DELETE = Verb("schedule.delete", SCHEDULER, sc.ScheduleGet, sc.Schedule)
SCHEDULE_PAUSE = Verb("schedule.pause", SCHEDULER, sc.ScheduleGet, sc.Schedule)
SCHEDULE_RESUME = Verb("schedule.resume", SCHEDULER, sc.ScheduleGet, sc.Schedule)
SCHEDULE_TRIGGER = Verb("schedule.trigger", SCHEDULER, sc.ScheduleTrigger, sc.ScheduleTriggered)
SCHEDULE_UPDATE = Verb("schedule.update", SCHEDULER, sc.ScheduleUpdate, sc.Schedule)
BUDGET_CREATE = Verb("budget.create", SCHEDULER, li.BudgetCreate, li.Budget)
BUDGET_GET = Verb("budget.get", SCHEDULER, li.BudgetGet, li.Budget)
BUDGET_REPLENISH = Verb("budget.replenish", SCHEDULER, li.BudgetReplenish, li.Budget)
BUDGET_RESET = Verb("budget.reset", SCHEDULER, li.BudgetGet, li.Budget)
BUDGET_DELETE = Verb("budget.delete", SCHEDULER, li.BudgetGet, li.Budget)
FLOW_CREATE = Verb("flow.create", SCHEDULER, f.FlowCreate, f.Flow)
FLOW_START = Verb("flow.start", SCHEDULER, f.FlowStart, f.Flow)
FLOW_FINISH = Verb("flow.finish", SCHEDULER, f.FlowFinish, f.Flow)
FLOW_FAIL = Verb("flow.fail", SCHEDULER, f.FlowFail, f.Flow)
FLOW_UPDATE_STATE = Verb("flow.update_state", SCHEDULER, f.FlowUpdateState, f.Flow)
FLOW_ADD_EXECUTION = Verb("flow.add_execution", SCHEDULER, f.FlowAddExecution, f.Flow)
FLOW_ADD_DEPENDENCY = Verb("flow.add_dependency", SCHEDULER, f.FlowAddDependency, f.Flow)
FLOW_SET_JOIN = Verb("flow.set_join", SCHEDULER, f.FlowSetJoin, f.Flow)
FLOW_GET = Verb("flow.get", SCHEDULER, f.FlowGet, f.Flow)
FLOW_WAIT = Verb("flow.wait", SCHEDULER, f.FlowWait, f.Flow)
FLOW_LIST = Verb("flow.list", SCHEDULER, f.FlowList, Page[f.Flow])
FLOW_GRAPH = Verb("flow.graph", SCHEDULER, f.FlowGraph, f.Graph)

LEASE_CLAIM = Verb("lease.claim", LEASE_KEEPER, le.Claim, le.TaskMessage, True)
LEASE_CLAIM_RESUMED = Verb("lease.claim_resumed", LEASE_KEEPER, le.Claim, le.TaskMessage, True)
LEASE_RECLAIM = Verb("lease.reclaim", LEASE_KEEPER, le.Claim, le.TaskMessage, True)
LEASE_START = Verb("lease.start", LEASE_KEEPER, le.LeaseStart, StateReply, True)
LEASE_RENEW = Verb("lease.renew", LEASE_KEEPER, le.LeaseRenew, le.Renewed, True)
LEASE_STALLED = Verb("lease.stalled", LEASE_KEEPER, le.LeaseStalled, StateReply, True)
LEASE_COMPLETE = Verb("lease.complete", LEASE_KEEPER, le.LeaseComplete, le.Completed, True)
LEASE_CANCEL = Verb("lease.cancel", LEASE_KEEPER, le.LeaseCancel, StateReply, True)
LEASE_DELAY = Verb("lease.delay", LEASE_KEEPER, le.LeaseDelay, StateReply, True)
LEASE_AWAIT_CHILDREN = Verb("lease.await_children", LEASE_KEEPER, le.LeaseAwaitChildren, StateReply, True)
LEASE_REVOKE = Verb("lease.revoke", LEASE_KEEPER, le.LeaseRevoke, StateReply, True)
LEASE_FAIL = Verb("lease.fail", LEASE_KEEPER, le.LeaseFail, le.Failed, True)
LEASE_RELEASE = Verb("lease.release", LEASE_KEEPER, le.LeaseRelease, StateReply, True)
LEASE_PROGRESS = Verb("lease.progress", LEASE_KEEPER, le.LeaseProgress, le.Progress, True)
LEASE_FRAME = Verb("lease.frame", LEASE_KEEPER, fr.LeaseFrame, fr.FrameStored, True)
LEASE_PARK = Verb("lease.park", LEASE_KEEPER, j.LeasePark, j.Parked, True)
JOURNAL_OPEN = Verb("journal.open", LEASE_KEEPER, j.JournalOpen, j.JournalOpened, True)
JOURNAL_APPEND = Verb("journal.append", LEASE_KEEPER, j.JournalAppend, j.JournalAppended, True)
JOURNAL_READ = Verb("journal.read", LEASE_KEEPER, j.JournalRead, Page[j.Entry])
FRAME_READ = Verb("frame.read", LEASE_KEEPER, fr.FrameRead, Page[fr.Frame])
WORKER_REGISTER = Verb("worker.register", LEASE_KEEPER, w.WorkerRegister, w.WorkerInfo)
WORKER_HEARTBEAT = Verb("worker.heartbeat", LEASE_KEEPER, w.WorkerHeartbeat, w.WorkerInfo)
WORKER_LIST = Verb("worker.list", LEASE_KEEPER, w.WorkerList, Page[w.WorkerInfo])
WORKER_DRAIN = Verb("worker.drain", LEASE_KEEPER, w.WorkerDrain, w.WorkerInfo)
KIND_LIST = Verb("kind.list", LEASE_KEEPER, w.KindList, Page[w.KindInfo])
LEASE_USAGE = Verb("lease.usage", LEASE_KEEPER, li.LeaseUsage, li.Usage, True)

WAITPOINT_CREATE = Verb("waitpoint.create", SIGNAL_ROUTER, s.WaitpointCreate, s.WaitpointCreated)
LEASE_SUSPEND = Verb("lease.suspend", SIGNAL_ROUTER, s.LeaseSuspend, s.Suspended, True)
SIGNAL_DELIVER = Verb("signal.deliver", SIGNAL_ROUTER, s.SignalDeliver, s.Delivered, True)
SIGNAL_RESUMED_BY = Verb("signal.resumed_by", SIGNAL_ROUTER, s.ResumedBy, Page[s.Signal], True)

SIGNAL_SEND = Verb("signal.send", SIGNAL_ROUTER, s.SignalSend, s.Delivered, True)
WAITPOINT_GET = Verb("waitpoint.get", SIGNAL_ROUTER, s.WaitpointGet, s.Waitpoint, True)
WAITPOINT_LIST = Verb("waitpoint.list", SIGNAL_ROUTER, s.WaitpointList, Page[s.Waitpoint])
WAITPOINT_CLOSE = Verb("waitpoint.close", SIGNAL_ROUTER, s.WaitpointClose, s.Waitpoint)
SIGNAL_LIST = Verb("signal.list", SIGNAL_ROUTER, s.SignalList, Page[s.KeptSignal], True)
WAITPOINT_ROTATE_SECRET = Verb(
    "waitpoint.rotate_secret", SIGNAL_ROUTER, s.WaitpointRotateSecret, s.SecretRotated
)
EXECUTION_SUSPEND = Verb("execution.suspend", SIGNAL_ROUTER, c.ExecutionSuspend, StateReply, True)
EXECUTION_RESUME = Verb("execution.resume", SIGNAL_ROUTER, c.ExecutionResume, StateReply, True)
FLOW_SET_WAITING = Verb("flow.set_waiting", SIGNAL_ROUTER, f.FlowSetWaiting, f.Flow)
FLOW_RESUME = Verb("flow.resume", SIGNAL_ROUTER, f.FlowResume, f.Flow)

FLOW_CREATE_MIRRORED = Verb("flow.create_mirrored", MIRROR_OBSERVER, f.FlowCreateMirrored, f.Flow)
FLOW_OBSERVE = Verb("flow.observe", MIRROR_OBSERVER, f.Observe, f.Step, True)
FLOW_STEPS = Verb("flow.steps", MIRROR_OBSERVER, f.FlowSteps, Page[f.Step])

MIRROR_RULE_PUT = Verb("mirror_rule.put", MIRROR_OBSERVER, mr.MirrorRulePut, mr.MirrorRule)
MIRROR_RULE_GET = Verb("mirror_rule.get", MIRROR_OBSERVER, mr.MirrorRuleGet, mr.MirrorRule)
MIRROR_RULE_LIST = Verb("mirror_rule.list", MIRROR_OBSERVER, mr.MirrorRuleList, Page[mr.MirrorRule])
MIRROR_RULE_DELETE = Verb("mirror_rule.delete", MIRROR_OBSERVER, mr.MirrorRuleGet, mr.MirrorRule)
MIRROR_RULE_TEST = Verb("mirror_rule.test", MIRROR_OBSERVER, mr.MirrorRuleTest, mr.MirrorRuleTested)

TRIGGER_PUT = Verb("trigger.put", MIRROR_OBSERVER, tr.TriggerPut, tr.Trigger)
TRIGGER_GET = Verb("trigger.get", MIRROR_OBSERVER, tr.TriggerGet, tr.Trigger)
TRIGGER_LIST = Verb("trigger.list", MIRROR_OBSERVER, tr.TriggerList, Page[tr.Trigger])
TRIGGER_DELETE = Verb("trigger.delete", MIRROR_OBSERVER, tr.TriggerGet, tr.Trigger)
TRIGGER_TEST = Verb("trigger.test", MIRROR_OBSERVER, tr.TriggerTest, tr.TriggerTested)

EXECUTION_CANCEL = Verb("execution.cancel", CANCEL_RECONCILER, ca.ExecutionCancel, StateReply, True)
FLOW_REQUEST_CANCEL = Verb("flow.request_cancel", CANCEL_RECONCILER, ca.FlowRequestCancel, f.Flow)
FLOW_CANCEL = Verb("flow.cancel", CANCEL_RECONCILER, ca.FlowCancel, ca.FlowCancelled)
CANCEL_BACKLOG = Verb("cancel.backlog", CANCEL_RECONCILER, ca.CancelBacklog, Page[ca.BacklogItem])

VERBS: Final[dict[str, Verb[Any, Any]]] = {
    verb.name: verb for verb in list(globals().values()) if isinstance(verb, Verb)
}
