"""The commands of the executions model that suspend jobs and let them go on: each with the reply that it must get."""

from collections.abc import Callable
from typing import Any

from execution_commands import Check
from reference import Fence
from waiting_reference import WaitingJob

from penstock.ids import new_id

Prepared = tuple[str, dict[str, Any], Check]
"""An op, its arguments, and a check of its reply, which also applies the op to the model."""


class WaitingCommands:
    """What it needs of the state machine: the jobs, the clock, and commands with a fence."""

    jobs: list[WaitingJob]
    base: int
    now: int
    _expect: Callable[[Callable[[Any], Any]], Check]
    _fenced: Callable[..., Prepared | None]
    _job: Callable[[int], WaitingJob | None]

    # -- workers ----------------------------------------------------------------------------------

    def _waitpoint(self, key: str, lasts: int, **fenced: Any) -> Prepared | None:
        waitpoint_id = new_id(0)
        return self._fenced(
            "create",
            **fenced,
            does=lambda job, fence: job.create_waitpoint(self.now, fence, waitpoint_id, key, lasts),
            id=waitpoint_id,
            waitpoint_key=key,
            expires_in_ms=lasts,
        )

    def _suspend(
        self,
        waitpoint: int | None,
        condition: str | None,
        timeout: int | None,
        behavior: str,
        **fenced: Any,
    ) -> Prepared | None:
        new = new_id(0)
        known = self._waitpoints()
        waitpoint_id = None
        if waitpoint is not None and known:
            waitpoint_id = known[-1 - waitpoint % len(known)][1]
        return self._fenced(
            "suspend",
            **fenced,
            does=lambda job, fence: job.suspend(
                self.now, fence, new, waitpoint_id, condition, timeout, behavior
            ),
            id=new,
            waitpoint_id=waitpoint_id,
            condition=None if condition is None else {"name": condition},
            reason_code="signal",
            timeout_ms=timeout,
            timeout_behavior=behavior,
        )

    def _resumed_by(self, **fenced: Any) -> Prepared | None:
        expected: list[str] = []

        def does(job: WaitingJob, fence: Fence) -> dict[str, Any]:
            expected[:] = job.resumed_by(self.now, fence)
            return {}

        prepared = self._fenced(
            "resumed_by",
            **fenced,
            does=does,
            prefer=lambda job: job.resumed,
            skip=0,
            limit=100,
        )
        if prepared is None:
            return None
        op, args, usual = prepared

        def check(reply: Any) -> None:
            usual(reply)
            found = reply["items"] if isinstance(reply, dict) else []
            assert [signal["signal_id"] for signal in found] == expected

        return op, args, check

    def _delay(self, lasts: int, **fenced: Any) -> Prepared | None:
        until = self.now + lasts
        return self._fenced(
            "delay",
            **fenced,
            does=lambda job, fence: job.delay(self.now, fence, until),
            until=self.base + until,
        )

    def _await_children(self, **fenced: Any) -> Prepared | None:
        return self._fenced(
            "await_children",
            **fenced,
            does=lambda job, fence: job.await_children(self.now, fence),
            prefer=lambda job: job.children_open,
        )

    # -- signals, budgets, operators --------------------------------------------------------------

    def _waitpoints(self) -> list[tuple[WaitingJob, str]]:
        return [(job, each) for job in self.jobs if not job.gone for each in job.waitpoints]

    def _deliver(self, waitpoint: int, signal: int, name: str) -> Prepared | None:
        known = self._waitpoints()
        if not known:
            return None
        job, waitpoint_id = known[-1 - waitpoint % len(known)]
        signal_id = f"s{signal}"

        def does(reply: Any) -> Any:
            return {"effect": job.deliver(self.now, waitpoint_id, signal_id, name), "signal_id": signal_id}

        args = {"waitpoint_id": waitpoint_id, "signal_id": signal_id, "name": name, "payload": "[]"}
        return "deliver", args, self._expect(does)

    def _budget_breach(self, breach: str, told: bool, **fenced: Any) -> Prepared | None:
        prepared = self._fenced(
            "budget_breach",
            **fenced,
            does=lambda job, fence: job.breach(self.now, fence.lease_id, "b", breach, told),
            budget_id="b",
            breach=breach,
            tell_worker=told,
        )
        return _without_epoch(prepared)

    def _budget_resume(self, **fenced: Any) -> Prepared | None:
        def does(job: WaitingJob, fence: Fence) -> dict[str, Any]:
            job.budget_resume(self.now, fence.lease_id, "b")
            return {}

        return _without_epoch(self._fenced("budget_resume", **fenced, does=does, budget_id="b"))

    def _hold(self, job: int) -> Prepared | None:
        running = [each for each in self.jobs if each.state == "running"]
        stopping = [each for each in running if each.stop_at is not None]
        return self._operator("hold", job, stopping or running, WaitingJob.operator_suspends)

    def _resume(self, job: int) -> Prepared | None:
        suspended = [each for each in self.jobs if each.state == "suspended"]
        return self._operator("resume", job, suspended, WaitingJob.operator_resumes)

    def _operator(
        self, op: str, job: int, meant: list[WaitingJob], does: Callable[[WaitingJob, int], Any]
    ) -> Prepared | None:
        """Build an operator's command, most often for one of the jobs that it is meant for."""
        target = meant[-1 - job % len(meant)] if meant and job % 4 != 3 else self._job(job)
        if target is None:
            return None
        args = {"execution_id": target.execution_id, "reason": "look"}
        return op, args, self._expect(lambda _: does(target, self.now))


def _without_epoch(prepared: Prepared | None) -> Prepared | None:
    """Leave out what names an attempt: a budget knows a lease by its id alone."""
    if prepared is not None:
        del prepared[1]["lease_epoch"], prepared[1]["attempt_index"]
    return prepared
