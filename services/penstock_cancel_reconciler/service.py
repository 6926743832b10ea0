"""Wire up the cancel-reconciler: its endpoints and the hint that it listens to.

Its due loop repeats cancel requests to the workers of held executions and revokes their leases past the grace. The
due loop also walks the members of cancelled flows whose handler died.
"""

from penstock import verbs
from penstock.runtime import Context, Service
from penstock.runtime.parking import Parking
from penstock_cancel_reconciler.backlog import Backlog
from penstock_cancel_reconciler.executions import Executions
from penstock_cancel_reconciler.flows import Flows
from penstock_cancel_reconciler.gauges import add_gauges


def build(context: Context) -> Service:
    parking = Parking(context.settings.sweep_ms / 1000)
    executions = Executions(context.machine)
    flows = Flows(context.machine, parking, context.nats, context.spawn)
    backlog = Backlog(context.machine)
    sizes = add_gauges(context, backlog)
    context.listen("flow_done", parking.wake)
    return Service(
        name=verbs.CANCEL_RECONCILER,
        endpoints={
            verbs.EXECUTION_CANCEL: executions.cancel,
            verbs.FLOW_REQUEST_CANCEL: flows.request_cancel,
            verbs.FLOW_CANCEL: flows.cancel,
            verbs.CANCEL_BACKLOG: backlog.list,
        },
        background=[sizes.run],
        drain=parking.drain,  # members that have not stopped yet stay in the backlog
    )
