"""Check that the records in Valkey agree with the model of executions."""

from typing import Any

from execution_commands import HALF
from reference import HELD, TERMINAL, Job
from state_dump import StateDump
from waiting_reference import WaitingJob

ABOUT_CHILDREN = {"children_open", "closing"}
"""Fields that may change after an execution has ended: its children go on, or are canceled."""


class Agreement:
    """`rooms`: a dump of Valkey's contents; `base`: the time on Valkey's clock when the test began (ms)."""

    rooms: StateDump
    base: int
    ready_at: dict[str, float]
    ended: dict[str, dict[str, Any]]
    epochs: dict[str, int]

    def agrees_on(self, job: WaitingJob) -> None:
        x = self.rooms.executions.get(job.execution_id)
        if job.gone:
            assert x is None
            left = {name for name in self.rooms.keys if name.endswith(job.execution_id)}
            if any(w.get("execution_id") == job.execution_id for w in self.rooms.waitpoints.values()):
                left.discard(f"wx:{job.execution_id}")  # waitpoints may stay longer than their execution
            if job.ends_with_it():
                left.discard(f"ch:{job.execution_id}")  # and so may children that would have ended with it
            if not all(child.gone for child in job.children):
                left.discard(f"parent:{job.execution_id}")
            assert left == set(), "what retired leaves nothing"
            return
        assert x is not None, "a record is lost"
        seen = (
            x["state"],
            x.get("reason"),
            x.get("outcome"),
            x.get("attempt_index", 0),
            x.get("reclaims", 0),
        )
        assert seen == (job.state, job.reason, job.outcome, job.attempt, job.reclaims)
        assert x.get("failure", {}).get("category") == job.failure
        assert x.get("grant_id") == (job.grant.grant_id if job.grant else None)
        assert x.get("via") == job.via
        self._agrees_on_lease(job, x)
        self._agrees_on_times(job, x)
        self._agrees_on_waitpoints(job)
        if job.state == "ready":
            self.ready_at[job.execution_id] = x["ready_at"]
        epoch = x.get("lease_epoch", 0)
        assert epoch >= self.epochs.get(job.execution_id, 0), "the epoch only grows"
        self.epochs[job.execution_id] = epoch
        assert x.get("children_open", 0) == job.children_open
        if job.state in TERMINAL:
            fixed = {name: value for name, value in x.items() if name not in ABOUT_CHILDREN}
            assert self.ended.setdefault(job.execution_id, fixed) == fixed, "what is terminal is immutable"

    def _agrees_on_lease(self, job: Job, x: dict[str, Any]) -> None:
        if job.lease is None:
            assert "lease_id" not in x
            return
        assert job.state in HELD
        fence = job.lease.fence
        assert (x["lease_id"], x["lease_epoch"], x["attempt_index"]) == (
            fence.lease_id,
            fence.epoch,
            fence.attempt,
        )
        assert x["worker_id"] == job.lease.worker
        assert self._about(x["lease_expires_at"], job.lease.expires)
        assert self._about(x.get("attempt_expires_at"), job.lease.attempt_ends)

    def _agrees_on_times(self, job: Job, x: dict[str, Any]) -> None:
        assert self._about(x.get("wake_at"), job.wake_at)
        assert self._about(x.get("cancel_at"), job.look_at)
        assert self._about(x.get("grant_expires_at"), job.grant.expires if job.grant else None)

    def _agrees_on_waitpoints(self, job: WaitingJob) -> None:
        for waitpoint in job.waitpoints.values():
            w = self.rooms.waitpoints.get(waitpoint.waitpoint_id)
            assert (w and w["state"]) == (None if waitpoint.gone else waitpoint.state)

    def _about(self, real: float | None, model: int | None) -> bool:
        """Return whether both are the same instant, apart from the time that the test itself takes."""
        if real is None or model is None:
            return real is model
        return 0 <= real - self.base - model < HALF
