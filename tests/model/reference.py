"""A plain-Python model of an execution: the contract's state machine without Valkey, Lua or batches.

What suspends a job and lets it go on is in waiting_reference.py. Time is a count of milliseconds that only the test
moves. A method models an op: it changes the job and returns the reply that the op must give, or raises `Refused` with
the error code that the op must answer.
"""

from dataclasses import dataclass
from typing import Any

TERMINAL = frozenset({"completed", "failed", "canceled"})
HELD = frozenset({"leased", "running"})
GRANT_TTL = 30_000
RETENTION = 630_000


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
    gone: bool = False

    # -- moves ------------------------------------------------------------------------------------

    def _move(self, state: str, now: int, reason: str | None = None, outcome: str | None = None) -> None:
        left, self.state, self.reason = self.state, state, reason
        self.grant = None
        if left in HELD and state not in HELD:
            self.lease = None
            self.stop_at = self.look_at = None
        if state == "ready":
            self.wake_at = None
        if state in TERMINAL:
            self.finished, self.outcome, self.wake_at = now, outcome or state, None

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

    def _begin(self, now: int) -> None:
        assert self.lease is not None
        timeout = self.spec.get("attempt_timeout_ms")
        self.lease.attempt_ends = None if timeout is None else now + timeout

    def _start(self, now: int) -> None:
        self._begin(now)
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
        self._move("running" if start else "leased", now)
        self.epoch += 1
        if self.fresh:
            self.fresh = self.resumed = False
            self.attempt += 1
        fence = Fence(task.get("lease_id", ""), self.epoch, self.attempt)
        self.lease = Lease(fence, worker, ttl, now + ttl, grant_id, self.via)
        self.via = self.past_grant = self.lost = None
        if start:
            self._begin(now)
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

    def release(self, now: int, fence: Fence, verb: str, unbegun: bool = True) -> dict[str, Any]:
        """Model release and give_back: return the task to the queue without using an attempt."""
        repeated = self._hold(now, fence, verb)
        if repeated is not None:
            return repeated
        if not unbegun and self.state != "leased":
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
            if self.stop_at is not None:
                self._stop(now)
                return
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
