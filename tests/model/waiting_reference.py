"""The part of the executions' model about waits: what suspends a job (signals, a delay, its children, a budget, an
operator), and what lets it go on.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Self

from reference import RETENTION, TERMINAL, Fence, Job, Refused

KEEP = 86_400_000
"""How long, at most, an ended waitpoint still tells repeated signals from new ones (ms)."""
CHILD_GRACE = 10_000
"""How long a child that runs may go on when its parent has failed or was canceled (ms)."""


@dataclass
class Waitpoint:
    """A waitpoint, which collects signals for a job: pending → open → satisfied, or closed, or expired."""

    waitpoint_id: str
    key: str | None
    state: str
    expires: int | None = None
    condition: str | None = None
    matched: str | None = None
    """The name of the signals that satisfied it; None: signals of any name."""
    lease_id: str | None = None
    """The lease that the execution kept, as the waitpoint was satisfied before the execution would have suspended."""
    signals: list[tuple[str, str]] = field(default_factory=list)
    retire_at: int = 0
    gone: bool = False

    def met(self) -> bool:
        return any(self.condition in (None, name) for _, name in self.signals)

    def satisfying(self) -> list[str]:
        """Return the ids of the signals that satisfied it."""
        return [signal_id for signal_id, name in self.signals if self.matched in (None, name)]


@dataclass
class WaitingJob(Job):
    """A job that may be suspended, for any of the reasons that the contract names."""

    waitpoints: dict[str, Waitpoint] = field(default_factory=dict)
    waiting_on: Waitpoint | None = None
    woken_by: Waitpoint | None = None
    on_timeout: str | None = None
    parent: Self | None = None
    children: list[Self] = field(default_factory=list)
    children_open: int = 0
    let_run: bool = False
    """The job goes on when its parent fails or is canceled."""
    closing_at: int | None = None
    """When the job failed or was canceled, until its children are canceled too."""
    held_by: tuple[str, str] | None = None
    """The budget, and the lease under which the job passed the budget's limit."""

    def _move(self, state: str, now: int, reason: str | None = None, outcome: str | None = None) -> None:
        left = self.state
        super()._move(state, now, reason, outcome)
        if self.parent is not None and state in TERMINAL:
            self.parent.child_ended(now)
        if state in ("failed", "canceled") and self.ends_with_it():
            self.closing_at = now
        if left == "suspended":
            if self.waiting_on is not None and self.waiting_on.state == "open":
                self._close(self.waiting_on, "closed", now)
            self.waiting_on = self.on_timeout = self.wake_at = None
        if state in ("retry_wait", "suspended") or state in TERMINAL:
            self.woken_by = None
        if state == "retry_wait" or state in TERMINAL:
            for waitpoint in self.waitpoints.values():
                if waitpoint.state == "pending":
                    self._close(waitpoint, "closed", now)

    def _resume(self, now: int) -> None:
        self._move("ready", now)
        self.via, self.resumed = "resumed", True

    def _suspends(self, now: int, fence: Fence, verb: str) -> dict[str, Any] | None:
        """Check whether a worker may suspend the job. Return the first reply for a repeat, else None."""
        repeated = self._hold(now, fence, verb)
        if repeated is None:
            self._must_run()
        return repeated

    # -- signals ----------------------------------------------------------------------------------

    @staticmethod
    def _close(waitpoint: Waitpoint, state: str, now: int) -> None:
        waitpoint.matched = waitpoint.condition
        waitpoint.state, waitpoint.condition, waitpoint.expires = state, None, None
        waitpoint.retire_at = now + min(RETENTION, KEEP)

    def pending(self, now: int, key: str | None) -> Waitpoint | None:
        for waitpoint in self.waitpoints.values():
            if waitpoint.key == key and waitpoint.state == "pending":
                assert waitpoint.expires is not None
                if waitpoint.expires > now:
                    return waitpoint
        return None

    def create_waitpoint(
        self, now: int, fence: Fence, waitpoint_id: str, key: str, lasts: int
    ) -> dict[str, Any]:
        self._hold(now, fence)
        waitpoint = self.pending(now, key)
        if waitpoint is None:
            waitpoint = Waitpoint(waitpoint_id, key, "pending", expires=now + lasts)
            self.waitpoints[waitpoint_id] = waitpoint
        return {"waitpoint_id": waitpoint.waitpoint_id}

    def suspend(
        self,
        now: int,
        fence: Fence,
        new_id: str,
        waitpoint_id: str | None,
        condition: str | None,
        timeout: int | None,
        behavior: str,
    ) -> dict[str, Any]:
        repeated = self._suspends(now, fence, "suspend")
        if repeated is not None:
            return repeated
        if self.stop_at is not None:
            self._move("canceled", now)
            return self._consume(fence, "suspend", {"outcome": "canceled"})
        waitpoint = None
        if waitpoint_id is not None:
            waitpoint = self.waitpoints.get(waitpoint_id)
            usable = waitpoint is not None and (
                (waitpoint.state == "pending" and (waitpoint.expires or 0) > now)
                or waitpoint.lease_id == fence.lease_id
            )
            if waitpoint is None or waitpoint.gone or not usable:
                raise Refused("waitpoint_not_found")
            if waitpoint.state == "satisfied":
                return {"outcome": "already_satisfied", "waitpoint_id": waitpoint_id}
            waitpoint.condition = condition
            if waitpoint.met():
                self._close(waitpoint, "satisfied", now)
                waitpoint.lease_id, self.resumed = fence.lease_id, True
                self.woken_by = waitpoint
                return {"outcome": "already_satisfied", "waitpoint_id": waitpoint_id}
        elif self.pending(now, None) is not None:
            raise Refused("waitpoint_pending_use_buffer")
        self._move("suspended", now, "signal")
        if waitpoint is None:
            waitpoint = self.waitpoints[new_id] = Waitpoint(new_id, None, "open", condition=condition)
        waitpoint.state, waitpoint.expires = "open", None
        self.waiting_on = waitpoint
        if timeout is not None:
            self.wake_at, self.on_timeout = now + timeout, behavior
        return self._consume(
            fence, "suspend", {"outcome": "suspended", "waitpoint_id": waitpoint.waitpoint_id}
        )

    def deliver(self, now: int, waitpoint_id: str, signal_id: str, name: str) -> str:
        """Deliver a signal to one of this job's waitpoints. Return the effect."""
        waitpoint = self.waitpoints[waitpoint_id]
        if waitpoint.gone:
            raise Refused("invalid_token")
        if any(known == signal_id for known, _ in waitpoint.signals):
            return "duplicate"
        if waitpoint.state == "pending" and (waitpoint.expires or 0) <= now:
            self._close(waitpoint, "expired", now)
        if waitpoint.state not in ("pending", "open"):
            return "ignored"
        waitpoint.signals.append((signal_id, name))
        if waitpoint.state == "pending":
            return "buffered"
        if not waitpoint.met():
            return "recorded"
        self._close(waitpoint, "satisfied", now)
        self.woken_by = waitpoint
        self._resume(now)
        return "resumed"

    def resumed_by(self, now: int, fence: Fence) -> list[str]:
        """Return the ids of the signals that let the job go on."""
        self._hold(now, fence)
        return self.woken_by.satisfying() if self.resumed and self.woken_by is not None else []

    def router_due(self, now: int) -> None:
        if self.state == "suspended" and self.on_timeout and self.wake_at is not None and self.wake_at <= now:
            match self.on_timeout:
                case "fail":
                    self.failure = "suspension_timeout"
                    self._move("failed", now)
                case "cancel":
                    self._move("canceled", now)
                case "resume":
                    self._resume(now)
                case _:  # escalate: one event, and the suspension goes on without a timeout
                    self.wake_at = self.on_timeout = None
        for waitpoint in self.waitpoints.values():
            if waitpoint.state == "pending":
                if (waitpoint.expires or 0) <= now:
                    self._close(waitpoint, "expired", now)
            elif waitpoint.state != "open" and waitpoint.retire_at <= now:
                # The waitpoint stays as long as the job may still read its signals.
                if self.woken_by is waitpoint:
                    waitpoint.retire_at = now + KEEP
                else:
                    waitpoint.gone = True

    # -- delays, children, budgets, operators -----------------------------------------------------

    def delay(self, now: int, fence: Fence, until: int) -> dict[str, Any]:
        repeated = self._suspends(now, fence, "delay")
        if repeated is not None:
            return repeated
        if self.stop_at is not None:
            self._move("canceled", now)
        else:
            self._move("suspended", now, "delay")
            if until > now:
                self.wake_at = until
            else:
                self._resume(now)
        return self._consume(fence, "delay", {"state": self.state})

    def keeper_due(self, now: int) -> None:
        if self.reason == "delay":
            assert self.wake_at is not None
            if self.wake_at <= now:
                self._resume(now)
        else:
            super().keeper_due(now)

    def await_children(self, now: int, fence: Fence) -> dict[str, Any]:
        repeated = self._suspends(now, fence, "await_children")
        if repeated is not None:
            return repeated
        if self.stop_at is not None:
            self._move("canceled", now)
        else:
            self._move("suspended", now, "children")
            if not self.children_open:
                self._resume(now)
        return self._consume(fence, "await_children", {"state": self.state})

    def child_ended(self, now: int) -> None:
        if self.gone:
            return
        self.children_open -= 1
        if not self.children_open and self.reason == "children":
            self._resume(now)

    def close_children(self, now: int) -> None:
        """Cancel the children that end with this job."""
        self.closing_at = None
        for child in self.ends_with_it():
            child.cancel(now, CHILD_GRACE)

    def ends_with_it(self) -> list[Self]:
        """Return the children that have not ended and are canceled when this job fails or is canceled."""
        return [
            child
            for child in self.children
            if not child.gone and child.state not in TERMINAL and not child.let_run
        ]

    def reconciled_at(self) -> float:
        """Return when the cancel-reconciler has to look at this job."""
        at = self.look_at if self.closing_at is None else self.closing_at
        return math.inf if at is None else at

    def breach(self, now: int, lease_id: str, budget_id: str, breach: str, told: bool) -> dict[str, Any]:
        """Stop the job, as a report under this lease has passed a budget's hard limit."""
        if self.gone:
            return {"suspended": False}
        if self.lease is not None and self.lease.fence.lease_id == lease_id:
            fence = self.lease.fence
            if self.state == "leased":
                self._start(now)
            if self.stop_at is not None:
                self._move("canceled", now)
            elif breach == "fail":
                self.failure = "budget_exceeded"
                self._move("failed", now)
            else:
                self._move("suspended", now, "budget")
                self.held_by = (budget_id, lease_id)
            self._consume(fence, "usage", {})
            if told:
                self.lost = (lease_id, "revoked")
        holds = self.reason == "budget" and self.held_by == (budget_id, lease_id)
        return {"state": self.state, "suspended": holds}

    def budget_resume(self, now: int, lease_id: str, budget_id: str) -> None:
        if not self.gone and self.reason == "budget" and self.held_by == (budget_id, lease_id):
            self.held_by = None
            self._resume(now)

    def operator_suspends(self, now: int) -> dict[str, Any]:
        self._alive()
        if self.state != "running":
            raise Refused("already_terminal" if self.state in TERMINAL else "illegal_transition")
        assert self.lease is not None
        lease_id = self.lease.fence.lease_id
        if self.stop_at is not None:
            self._move("canceled", now)
        else:
            self._move("suspended", now, "operator")
        self.lost = (lease_id, "revoked")
        return {"state": self.state}

    def operator_resumes(self, now: int) -> dict[str, Any]:
        self._alive()
        if self.state != "suspended":
            raise Refused("already_terminal" if self.state in TERMINAL else "illegal_transition")
        self.held_by = None
        self._resume(now)
        return {"state": self.state}
