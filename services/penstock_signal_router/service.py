"""The wiring of the signal-router: its verbs, consumers and due work."""

from penstock import verbs
from penstock.bus import streams
from penstock.bus.consumer import Consumer
from penstock.runtime import Context, Service
from penstock_signal_router.flow_waits import FlowWaits
from penstock_signal_router.holds import Holds
from penstock_signal_router.published import Published
from penstock_signal_router.signals import Signals
from penstock_signal_router.tokens import Tokens
from penstock_signal_router.waitpoints import Waitpoints
from penstock_signal_router.waits import Waits


def build(context: Context) -> Service:
    settings, machine = context.settings, context.machine
    tokens = Tokens(machine, now=context.due.clock.now, master=settings.signing_key())
    context.listen("ring", tokens.forget)
    signals = Signals(machine, tokens)
    waits = Waits(machine, tokens, signals.remember)
    waitpoints = Waitpoints(machine, tokens)
    holds = Holds(machine)
    published = Published(signals, settings.root, settings.max_payload_bytes)
    context.metrics.counter(
        "penstock_refused_signals", "Signals refused for their token or form", lambda: signals.refusals.seen
    )
    flow_waits = FlowWaits(
        machine, root=settings.root, payload_limit=settings.max_payload_bytes, spawn=context.spawn
    )
    context.due.on_result = flow_waits.due
    return Service(
        name=verbs.SIGNAL_ROUTER,
        endpoints={
            verbs.WAITPOINT_CREATE: waits.create,
            verbs.LEASE_SUSPEND: waits.suspend,
            verbs.SIGNAL_DELIVER: signals.handle,
            verbs.SIGNAL_RESUMED_BY: waits.resumed_by,
            verbs.SIGNAL_SEND: holds.send,
            verbs.WAITPOINT_GET: waitpoints.get,
            verbs.WAITPOINT_LIST: waitpoints.list,
            verbs.SIGNAL_LIST: waitpoints.signals,
            verbs.WAITPOINT_CLOSE: waitpoints.close,
            verbs.WAITPOINT_ROTATE_SECRET: waitpoints.rotate_secret,
            verbs.EXECUTION_SUSPEND: holds.suspend,
            verbs.EXECUTION_RESUME: holds.resume,
            verbs.FLOW_SET_WAITING: flow_waits.set_waiting,
            verbs.FLOW_RESUME: flow_waits.resume,
        },
        consumers=[
            Consumer(streams.SIGNALS, "signal-router", published.handle, at_once=2),
            Consumer(streams.EVENTS_IN, "signal-router", flow_waits.handle),
        ],
    )
