"""Wire up the lease-keeper: its endpoints and the handlers behind them."""

from penstock import verbs
from penstock.machine.references import References
from penstock.runtime import Context, Service
from penstock_lease_keeper.budgets import Budgets
from penstock_lease_keeper.claims import Claims
from penstock_lease_keeper.frames import Frames
from penstock_lease_keeper.kinds import Kinds
from penstock_lease_keeper.leases import Leases
from penstock_lease_keeper.outcomes import Outcomes
from penstock_lease_keeper.workers import Workers


def build(context: Context) -> Service:
    limit = context.settings.max_payload_bytes
    claims = Claims(context.machine, limit)
    leases = Leases(context.machine)
    outcomes = Outcomes(context.machine, References(context.machine))
    budgets = Budgets(context.machine, context.spawn)
    context.due.on_result = budgets.due
    context.listen("unheld", budgets.unheld)
    frames = Frames(context.machine, context.nats, root=context.settings.root)
    kinds = Kinds(context.machine)
    workers = Workers(context.machine, context.nats, kinds, root=context.settings.root)
    return Service(
        name=verbs.LEASE_KEEPER,
        endpoints={
            verbs.LEASE_CLAIM: claims.claim,
            verbs.LEASE_CLAIM_RESUMED: claims.claim_resumed,
            verbs.LEASE_RECLAIM: claims.reclaim,
            verbs.LEASE_START: leases.start,
            verbs.LEASE_RENEW: leases.renew,
            verbs.LEASE_STALLED: leases.stalled,
            verbs.LEASE_RELEASE: leases.release,
            verbs.LEASE_PROGRESS: leases.progress,
            verbs.LEASE_FRAME: frames.append,
            verbs.FRAME_READ: frames.read,
            verbs.WORKER_REGISTER: workers.register,
            verbs.WORKER_HEARTBEAT: workers.heartbeat,
            verbs.WORKER_LIST: workers.list,
            verbs.WORKER_DRAIN: workers.drain,
            verbs.KIND_LIST: kinds.list,
            verbs.LEASE_USAGE: budgets.usage,
            verbs.LEASE_COMPLETE: outcomes.complete,
            verbs.LEASE_FAIL: outcomes.fail,
            verbs.LEASE_CANCEL: outcomes.cancel,
            verbs.LEASE_DELAY: outcomes.delay,
            verbs.LEASE_AWAIT_CHILDREN: outcomes.await_children,
            verbs.LEASE_REVOKE: leases.revoke,
        },
    )
