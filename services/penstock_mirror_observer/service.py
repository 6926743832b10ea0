"""The wiring of the mirror-observer: its verbs, consumers and background tasks."""

from penstock import verbs
from penstock.bus import streams
from penstock.bus.consumer import Consumer
from penstock.runtime import Context, Service
from penstock_mirror_observer.flows import Flows
from penstock_mirror_observer.observations import Observations
from penstock_mirror_observer.rules.following import Following
from penstock_mirror_observer.rules.stored import Subjects
from penstock_mirror_observer.rules.trigger_verbs import Triggers
from penstock_mirror_observer.rules.verbs import Rules
from penstock_mirror_observer.steps import Steps


def build(context: Context) -> Service:
    flows = Flows(context.machine)
    steps = Steps(context.machine)
    observations = Observations(
        context.machine, root=context.settings.root, max_payload_bytes=context.settings.max_payload_bytes
    )
    subjects = Subjects(context.js, context.settings.root)
    rules = Rules(context.machine, subjects)
    triggers = Triggers(context.machine, subjects)
    settings = context.settings
    following = Following(context.machine, context.nats, settings.root, settings.sweep_ms / 1000, context.log)
    context.listen("rules", following.changed)
    return Service(
        name=verbs.MIRROR_OBSERVER,
        endpoints={
            verbs.FLOW_CREATE_MIRRORED: flows.create_mirrored,
            verbs.FLOW_OBSERVE: steps.observe,
            verbs.FLOW_STEPS: steps.list,
            verbs.MIRROR_RULE_PUT: rules.put,
            verbs.MIRROR_RULE_GET: rules.get,
            verbs.MIRROR_RULE_LIST: rules.list,
            verbs.MIRROR_RULE_DELETE: rules.delete,
            verbs.MIRROR_RULE_TEST: rules.test,
            verbs.TRIGGER_PUT: triggers.put,
            verbs.TRIGGER_GET: triggers.get,
            verbs.TRIGGER_LIST: triggers.list,
            verbs.TRIGGER_DELETE: triggers.delete,
            verbs.TRIGGER_TEST: triggers.test,
        },
        # In order: a flow ends with its last known step, so steps announced earlier must be applied earlier.
        consumers=[
            Consumer(streams.OBSERVATIONS, "mirror-observer", observations.apply, in_order=True),
        ],
        background=[following.run],
        due=False,
    )
