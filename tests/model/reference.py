"""A plain-Python model of an execution: the contract's state machine without Valkey, Lua or batches.

Time is a count of milliseconds that only the test moves. A method models an op: it changes the job and returns the
reply that the op must give, or raises `Refused` with the error code that the op must answer.
"""

from dataclasses import dataclass, field
from typing import Any

TERMINAL = frozenset({"completed", "failed", "canceled"})
HELD = frozenset({"leased", "running"})
GRANT_TTL = 30_000
RETENTION = 630_000
KEEP = 86_400_000
"""How long, at most, an ended waitpoint still tells repeated signals from new ones (ms)."""


class Refused(Exception):
    """The op must be refused with this code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Fence:
    lease_id: str
    epoch: int
    attempt: int


@dataclass
class Grant:
    grant_id: str
    worker: str
    expires: int


@dataclass
class Lease:
    fence: Fence
    worker: str
    ttl: int
    expires: int
    grant_id: str | None
    via: str | None
    attempt_ends: int | None = None


@dataclass
class Waitpoint:
    """A waitpoint, which collects signals for a job: pending → open → satisfied, or closed, or expired."""

    waitpoint_id: str
    key: str | None
    state: str
    expires: int | None = None
    condition: str | None = None
    lease_id: str | None = None
    """The lease that the execution kept, as the waitpoint was satisfied before the execution would have suspended."""
    signals: list[tuple[str, str]] = field(default_factory=list)
    retire_at: int = 0
    gone: bool = False

    def met(self) -> bool:
        return any(self.condition in (None, name) for _, name in self.signals)


@dataclass
class Job:
    """One execution. `spec` has the fields of execution.create; its times are the model's."""

    execution_id: str
    spec: dict[str, Any]
    state: str = "ready"
    reason: str | None = None
    outcome: str | None = None
    attempt: int = 0
    epoch: int = 0
    reclaims: int = 0
    fresh: bool = True
    via: str | None = None
    resumed: bool = False
    wake_at: int | None = None
    on_timeout: str | None = None
    finished: int = 0
    grant: Grant | None = None
    past_grant: str | None = None
    lease: Lease | None = None
    last: tuple[str, str, Any] | None = None
    lost: tuple[str, str] | None = None
    stop_at: int | None = None
    """The end of the grace, once cancellation was requested."""
    look_at: int | None = None
    tries: int = 0
    failure: str | None = None
    waitpoints: dict[str, Waitpoint] = field(default_factory=dict)
    waiting_on: Waitpoint | None = None
    woken_by: Waitpoint | None = None
    gone: bool = False

    # -- moves ------------------------------------------------------------------------------------

    def _move(self, state: str, now: int, reason: str | None = None, outcome: str | None = None) -> None:
        left, self.state, self.reason = self.state, state, reason
        self.grant = None
        if left in HELD and state not in HELD:
            self.lease = None
            self.stop_at = self.look_at = None
        if left == "suspended":
            if self.waiting_on is not None and self.waiting_on.state == "open":
                self._close(self.waiting_on, "closed", now)
            self.waiting_on = self.on_timeout = self.wake_at = None
        if state == "ready":
            self.wake_at = None
        if state in TERMINAL:
            self.finished, self.outcome, self.wake_at = now, outcome or state, None
        if state in ("retry_wait", "suspended") or state in TERMINAL:
            self.woken_by = None
        if state == "retry_wait" or state in TERMINAL:
            for waitpoint in self.waitpoints.values():
                if waitpoint.state == "pending":
                    self._close(waitpoint, "closed", now)

    @staticmethod
    def _close(waitpoint: Waitpoint, state: str, now: int) -> None:
        waitpoint.state, waitpoint.condition, waitpoint.expires = state, None, None
        waitpoint.retire_at = now + min(RETENTION, KEEP)

    def _alive(self) -> None:
        if self.gone:
            raise Refused("execution_not_found")

    def _fail(self, now: int, category: str, retryable: bool, delay: int | None) -> dict[str, Any]:
        self.failure = category
        if (
            retryable
            and self.attempt < self.spec["max_attempts"]
            and category not in self.spec.get("fail_on", ())
            and category in self.spec.get("retry_on", [category])
        ):
            self._move("retry_wait", now)
            self.wake_at = now + (self._backoff() if delay is None else delay)
            self.fresh = True
            return {"outcome": "retry_scheduled", "next_attempt": self.attempt + 1}
        self._move("failed", now)
        return {"outcome": "terminal_failed"}

    def _backoff(self) -> int:
        backoff = self.spec["backoff"]
        delay = backoff["delay_ms"]
        if backoff["kind"] == "exponential":
            delay *= backoff["factor"] ** (self.attempt - 1)
        return int(min(delay, backoff["max_ms"]))

    def _start(self, now: int) -> None:
        assert self.lease is not None
        timeout = self.spec.get("attempt_timeout_ms")
        self.lease.attempt_ends = None if timeout is None else now + timeout
        self._move("running", now)

    # -- leases -----------------------------------------------------------------------------------

    def claim(
        self, now: int, grant_id: str, worker: str, ttl: int, start: bool, verb: str, task: dict[str, Any]
    ) -> dict[str, Any]:
        """Claim the job by a grant. `task` is the op's real reply, from which the model takes the lease id."""
        self._alive()
        if self.lease is not None:
            if (self.lease.grant_id, self.lease.worker) == (grant_id, worker):
                return self._task()
            raise Refused("lease_conflict")
        if self.state != "ready":
            raise Refused("execution_not_reclaimable" if verb == "reclaim" else "execution_not_leaseable")
        grant = self.grant
        if grant is None or (grant.grant_id, grant.worker) != (grant_id, worker):
            raise Refused("claim_grant_expired" if self.past_grant == grant_id else "invalid_claim_grant")
        if grant.expires <= now:
            raise Refused("claim_grant_expired")
        if verb == "claim" and self.via == "resumed":
            raise Refused("use_claim_resumed_execution")
        if verb == "claim_resumed" and self.via != "resumed":
            raise Refused("not_a_resumed_execution")
        if verb == "reclaim" and self.via != "reclaim":
            raise Refused("execution_not_reclaimable")
        return self.take(now, grant_id, worker, ttl, start, task)

    def take(
        self, now: int, grant_id: str | None, worker: str, ttl: int, start: bool, task: dict[str, Any]
    ) -> dict[str, Any]:
        """Lease the ready job, either claimed by a grant or handed out without one (None)."""
        self._move("leased", now)
        self.epoch += 1
        if self.fresh:
            self.fresh = self.resumed = False
            self.attempt += 1
        fence = Fence(task.get("lease_id", ""), self.epoch, self.attempt)
        self.lease = Lease(fence, worker, ttl, now + ttl, grant_id, self.via)
        self.via = self.past_grant = self.lost = None
        if start:
            self._start(now)
        return self._task()

    def _task(self) -> dict[str, Any]:
        assert self.lease is not None
        fence = self.lease.fence
        return {
            "execution_id": self.execution_id,
            "lease_id": fence.lease_id,
            "lease_epoch": fence.epoch,
            "attempt_index": fence.attempt,
            "resumed": self.resumed,
        }

    def _hold(self, now: int, fence: Fence, verb: str | None = None) -> dict[str, Any] | None:
        """Check the fence. Return None for the holder, or the first reply for a repeat of `verb`."""
        self._alive()
        if self.lease is not None and self.lease.fence == fence:
            if self.lease.expires <= now:
                raise Refused("lease_expired")
            return None
        if verb and self.last is not None and self.last[:2] == (fence.lease_id, verb):
            return self.last[2]
        if self.state in TERMINAL:
            raise Refused("execution_not_active")
        if self.lost is not None and self.lost[0] == fence.lease_id:
            raise Refused("lease_revoked" if self.lost[1] == "revoked" else "lease_expired")
        if self.lease is not None or (self.last is not None and self.last[0] == fence.lease_id):
            raise Refused("stale_lease")
        raise Refused("no_active_lease")

    def _consume(self, fence: Fence, verb: str, reply: dict[str, Any]) -> dict[str, Any]:
        self.last = (fence.lease_id, verb, reply)
        return reply

    def start(self, now: int, fence: Fence) -> dict[str, Any]:
        self._hold(now, fence)
        if self.state == "leased":
            self._start(now)
        return {"state": "running"}

    def renew(self, now: int, fence: Fence, ttl: int | None) -> dict[str, Any]:
        self._hold(now, fence)
        assert self.lease is not None
        self.lease.ttl = ttl or self.lease.ttl
        self.lease.expires = now + self.lease.ttl
        return {"cancel_requested": self.stop_at is not None}

    def progress(self, now: int, fence: Fence) -> dict[str, Any]:
        self._hold(now, fence)
        return {}

    def complete(self, now: int, fence: Fence) -> dict[str, Any]:
        repeated = self._hold(now, fence, "complete")
        if repeated is not None:
            return repeated
        self._must_run()
        self._move("completed" if self.stop_at is None else "canceled", now)
        return self._consume(fence, "complete", {"state": self.state})

    def fail(
        self, now: int, fence: Fence, category: str, retryable: bool, delay: int | None
    ) -> dict[str, Any]:
        repeated = self._hold(now, fence, "fail")
        if repeated is not None:
            return repeated
        self._must_run()
        if self.stop_at is not None:
            self._move("canceled", now)
            reply = {"outcome": "terminal_failed"}
        else:
            reply = self._fail(now, category, retryable, delay)
        return self._consume(fence, "fail", reply)

    def _must_run(self) -> None:
        if self.state != "running":
            raise Refused("illegal_transition")

    def release(self, now: int, fence: Fence, verb: str) -> dict[str, Any]:
        """Model release and give_back: return the task to the queue without using an attempt."""
        repeated = self._hold(now, fence, verb)
        if repeated is not None:
            return repeated
        if verb == "release" and self.state != "leased":
            raise Refused("illegal_transition")
        assert self.lease is not None
        via = self.lease.via
        if self.stop_at is not None:
            self._move("canceled", now)
        else:
            self._move("ready", now)
            self.via = via
        return self._consume(fence, verb, {"state": self.state})

    def keeper_due(self, now: int) -> None:
        lease = self.lease
        if self.state == "retry_wait":
            assert self.wake_at is not None
            if self.wake_at <= now:
                self._move("ready", now)
        elif lease is not None and lease.expires <= now:
            self._lose(now)
        elif lease is not None and lease.attempt_ends is not None and lease.attempt_ends <= now:
            if self.stop_at is not None:
                self._move("canceled", now)
            else:
                self._fail(now, "timeout", True, None)
            self.lost = (lease.fence.lease_id, "revoked")

    def _lose(self, now: int) -> None:
        assert self.lease is not None
        lost = (self.lease.fence.lease_id, "expired")
        if self.stop_at is not None:
            self._move("canceled", now)
        elif self.reclaims >= self.spec.get("max_reclaims", 10):
            self._move("failed", now)
            self.failure = "lease_expired"
        else:
            self.reclaims += 1
            self._move("ready", now)
            self.via = "reclaim"
        self.lost = lost

    # -- the scheduler ----------------------------------------------------------------------------

    def granted(self, now: int, grant_id: str, worker: str) -> None:
        self.grant = Grant(grant_id, worker, now + GRANT_TTL)

    def scheduler_due(self, now: int) -> None:
        deadline = self.spec.get("deadline_at")
        if self.state in TERMINAL:
            if self.finished + RETENTION <= now:
                self.gone = True
        elif deadline is not None and deadline <= now:
            lease = self.lease
            self.failure = "deadline_exceeded"
            self._move("failed" if self.state in ("running", "retry_wait", "suspended") else "canceled", now)
            if lease is not None:
                self.lost = (lease.fence.lease_id, "revoked")
        elif self.grant is not None and self.grant.expires <= now:
            self.past_grant, self.grant = self.grant.grant_id, None
        elif self.state == "scheduled" and self.wake_at is not None and self.wake_at <= now:
            self._move("ready", now)

    # -- cancellation -----------------------------------------------------------------------------

    def cancel(self, now: int, grace: int) -> dict[str, Any]:
        self._alive()
        if self.state in TERMINAL:
            if self.state != "canceled":
                raise Refused("already_terminal")
        elif self.state in HELD and grace > 0:
            if self.stop_at is None:
                self.stop_at, self.tries = now + grace, 0
            else:
                self.stop_at = min(self.stop_at, now + grace)
            self._look_again(now)
        else:
            self._stop(now)
        return {"state": self.state}

    def _stop(self, now: int) -> None:
        lease = self.lease
        self._move("canceled", now)
        if lease is not None:
            self.lost = (lease.fence.lease_id, "revoked")

    def _look_again(self, now: int) -> None:
        assert self.stop_at is not None
        self.tries += 1
        self.look_at = now + min(1000 * 2 ** (self.tries - 1), 60_000)
        if self.stop_at > now:
            self.look_at = min(self.look_at, self.stop_at)

    def reconciler_due(self, now: int) -> None:
        if self.look_at is not None and self.look_at <= now:
            assert self.stop_at is not None
            if self.stop_at > now:
                self._look_again(now)
            else:
                self._stop(now)

    # -- waits and wakes --------------------------------------------------------------------------

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
        repeated = self._hold(now, fence, "suspend")
        if repeated is not None:
            return repeated
        self._must_run()
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

    def _resume(self, now: int) -> None:
        self._move("ready", now)
        self.via, self.resumed = "resumed", True

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
