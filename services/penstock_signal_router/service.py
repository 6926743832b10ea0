"""What the signal-router answers and runs: its table of contents."""

from penstock import verbs
from penstock.bus import streams
from penstock.bus.consumer import Consumer
from penstock.runtime import Context, Service
from penstock_signal_router.published import Published
from penstock_signal_router.signals import Signals
from penstock_signal_router.tokens import Tokens
from penstock_signal_router.waits import Waits


def build(context: Context) -> Service:
    settings = context.settings
    tokens = Tokens(context.machine, now=context.due.clock.now)
    waits = Waits(context.machine, tokens)
    signals = Signals(context.machine, tokens)
    published = Published(signals, settings.root, settings.max_payload_bytes)
    return Service(
        name=verbs.SIGNAL_ROUTER,
        endpoints={
            verbs.WAITPOINT_CREATE: waits.create,
            verbs.LEASE_SUSPEND: waits.suspend,
            verbs.SIGNAL_DELIVER: signals.handle,
            verbs.SIGNAL_RESUMED_BY: waits.resumed_by,
        },
        consumers=[Consumer(streams.SIGNALS, "signal-router", published.handle)],
    )
