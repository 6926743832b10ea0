"""The errors that each verb can answer, for the reference. What is not listed, a verb never answers.

The contract tests compare each error that they see with this (tests/contract/conftest.py).
"""

from typing import Any, Final

from penstock.errors import TABLE
from penstock.verbs import Verb

ANY: Final = frozenset(
    {"invalid_request", "payload_too_large", "not_permitted", "valkey_unavailable", "timeout", "internal"}
)
"""What every verb can answer."""

_FENCE: Final = (
    "execution_not_found execution_not_active lease_expired lease_revoked stale_lease no_active_lease"
)
_CLAIM: Final = (
    "execution_not_found execution_not_leaseable lease_conflict invalid_claim_grant claim_grant_expired"
    " execution_not_in_eligible_set"
)
_LIMITS: Final = "rate_limit_exceeded concurrency_limit_exceeded budget_exceeded"
_SPEC: Final = "quota_not_found budget_not_found execution_not_eligible"
"""Of a verb that takes what an execution is made of; not eligible: its lane drains."""
_OPEN_FLOW: Final = "flow_not_found already_terminal cancel_pending"
_FLOW: Final = f"{_OPEN_FLOW} revision_mismatch"
_GRAPH: Final = f"{_FLOW} stale_graph_revision"

_OWN: Final = {
    "execution.create": f"{_SPEC} {_OPEN_FLOW} execution_not_found",
    "execution.execute": f"{_SPEC} {_OPEN_FLOW} execution_not_found",
    "execution.get": "execution_not_found",
    "execution.history": "execution_not_found",
    "execution.wait": "execution_not_found",
    "execution.explain": "execution_not_found",
    "execution.query": "execution_not_found",
    "execution.run_now": "execution_not_found execution_not_eligible retry_exhausted already_terminal",
    "execution.change_priority": "execution_not_found already_terminal",
    "execution.set_tags": "execution_not_found already_terminal",
    "execution.replay": "execution_not_found execution_not_eligible",
    "execution.fork": "execution_not_found execution_not_eligible journal_entry_not_found",
    "execution.suspend": "execution_not_found illegal_transition already_terminal",
    "execution.resume": "execution_not_found illegal_transition already_terminal",
    "execution.cancel": "execution_not_found already_terminal",
    "work.grant": f"no_eligible_execution {_LIMITS}",
    "lane.pause": "lane_not_found",
    "lane.resume": "lane_not_found",
    "lane.drain": "lane_not_found",
    "bulk.get": "bulk_not_found",
    "bulk.stop": "bulk_not_found",
    "quota.get": "quota_not_found",
    "quota.delete": "quota_not_found",
    "schedule.create": "quota_not_found budget_not_found",
    "schedule.get": "schedule_not_found",
    "schedule.times": "schedule_not_found",
    "schedule.delete": "schedule_not_found",
    "schedule.pause": "schedule_not_found already_terminal",
    "schedule.resume": "schedule_not_found already_terminal",
    "schedule.trigger": "schedule_not_found already_terminal execution_not_eligible",
    "schedule.update": "schedule_not_found already_terminal quota_not_found budget_not_found",
    "budget.get": "budget_not_found",
    "budget.replenish": "budget_not_found",
    "budget.reset": "budget_not_found",
    "budget.delete": "budget_not_found",
    "flow.create": f"{_SPEC} dependency_cycle",
    "flow.start": f"{_FLOW} illegal_transition",
    "flow.finish": f"{_FLOW} illegal_transition",
    "flow.fail": f"{_FLOW} illegal_transition",
    "flow.update_state": _FLOW,
    "flow.add_execution": f"{_GRAPH} {_SPEC} dependency_cycle",
    "flow.add_dependency": f"{_GRAPH} execution_not_eligible dependency_cycle",
    "flow.set_join": f"{_GRAPH} execution_not_eligible",
    "flow.get": "flow_not_found",
    "flow.wait": "flow_not_found",
    "flow.graph": "flow_not_found",
    "flow.set_waiting": f"{_FLOW} illegal_transition",
    "flow.resume": f"{_FLOW} illegal_transition",
    "flow.observe": "flow_not_found already_terminal",
    "flow.steps": "flow_not_found",
    "flow.request_cancel": "flow_not_found already_terminal revision_mismatch",
    "flow.cancel": "flow_not_found revision_mismatch",
    "lease.claim": f"{_CLAIM} use_claim_resumed_execution",
    "lease.claim_resumed": f"{_CLAIM} not_a_resumed_execution",
    "lease.reclaim": f"{_CLAIM} execution_not_reclaimable",
    "lease.start": _FENCE,
    "lease.renew": _FENCE,
    "lease.stalled": _FENCE,
    "lease.progress": _FENCE,
    "lease.cancel": _FENCE,
    "lease.frame": _FENCE,
    "lease.complete": f"{_FENCE} illegal_transition quota_not_found budget_not_found",
    "lease.fail": f"{_FENCE} illegal_transition",
    "lease.release": f"{_FENCE} illegal_transition",
    "lease.delay": f"{_FENCE} illegal_transition",
    "lease.await_children": f"{_FENCE} illegal_transition",
    "lease.park": f"{_FENCE} illegal_transition journal_entry_not_found journal_full quota_not_found budget_not_found",
    "lease.usage": f"{_FENCE} budget_not_found budget_exceeded",
    "lease.revoke": "execution_not_found no_active_lease",
    "lease.suspend": f"{_FENCE} illegal_transition waitpoint_not_found waitpoint_pending_use_buffer",
    "journal.open": _FENCE,
    "journal.append": f"{_FENCE} journal_full quota_not_found budget_not_found",
    "journal.read": "execution_not_found",
    "frame.read": "execution_not_found",
    "waitpoint.create": _FENCE,
    "waitpoint.get": "waitpoint_not_found",
    "waitpoint.close": "waitpoint_not_found illegal_transition",
    "signal.deliver": "invalid_token token_expired",
    "signal.send": "execution_not_found waitpoint_not_found",
    "signal.list": "waitpoint_not_found",
    "signal.resumed_by": _FENCE,
    "mirror_rule.get": "mirror_rule_not_found",
    "mirror_rule.delete": "mirror_rule_not_found",
    "trigger.get": "trigger_not_found",
    "trigger.delete": "trigger_not_found",
}


def errors_of(verb: Verb[Any, Any]) -> list[str]:
    """Return the codes of the errors that are this verb's own, besides those of `ANY`, in the order of the table."""
    own = set(_OWN.get(verb.name, "").split())
    if "idempotency_key" in verb.request.__struct_fields__:
        own.add("idempotency_conflict")
    return [code for code in TABLE if code in own]
