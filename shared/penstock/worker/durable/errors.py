"""What durable functions raise. All but `TaskSuspended` are failures that no further attempt can mend, so they are
`Fail`s.

A handler may catch them. One that it does not catch ends the execution as failed, with the category given here.
"""

from penstock.worker._errors import Fail


class TaskSuspended(BaseException):
    """The execution was suspended, or its lease was lost: this run of the handler ends here, and sends nothing more.

    It is no `Exception`, so that `except Exception` lets it pass. Do not catch it. `finally` blocks do run, at each
    suspension: clean up with `task.compensate`, which runs only when the execution fails or is canceled.
    """

    def __init__(self, why: str = "the execution is suspended") -> None:
        super().__init__(why)


class NestedStep(Fail):
    """A durable call was made inside a step. Nothing was run: a step is one unit, and its journal entry holds
    no other.
    """

    def __init__(self, call: str, inside: str) -> None:
        super().__init__(
            f"task.{call} was called inside the step {inside!r}: make this call in the handler, or pass its result in",
            "nested_step",
        )


class StepKeyNeeded(Fail):
    """Two calls that run side by side, or a key that was used before, would share one journal entry. Nothing
    was run.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} {why}", "step_key_needed")


class StepFailed(Fail):
    """A step has failed for good. `key`, `name`; `category` and `reason` of its last error; `type`, the error's class.

    It is raised from the journal, so it is the same in every run. In the run in which the step failed, `__cause__` is
    the original exception.
    """

    def __init__(self, key: str, category: str, reason: str, type: str | None = None) -> None:
        super().__init__(f"{key}: {reason}", category)
        self.key, self.error_reason, self.type = key, reason, type
        self.name = name_in(key)


class StepCanceled(StepFailed):
    """The call was given up, because another branch won `task.first`, or failed in
    `task.parallel(failures="cancel")`.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key, "canceled", "given up when another branch had ended")


class StepInDoubt(Fail):
    """A step with `once=True` began in an earlier run, whose worker died before the outcome was journaled.

    Whether the step had its effect is unknown, and it is not run again. Find out in the handler, in another step, and
    go on. `key` and `name` tell the step.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} began, but whether it ended is unknown", "step_in_doubt")
        self.key, self.name = key, name_in(key)


class SignalTimeout(Fail):
    """The signals did not come in time, and `wait_signal` had no default."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key}: no signal came in time", "signal_timeout")
        self.key, self.name = key, name_in(key)


class ChildFailed(Fail):
    """A child execution failed or was canceled (category `canceled`). `execution_id` is the child's."""

    def __init__(self, key: str, execution_id: str, category: str, reason: str) -> None:
        super().__init__(f"{key}: child {execution_id}: {reason}", category)
        self.key, self.name, self.execution_id = key, name_in(key), execution_id


class JournalFull(Fail):
    """The journal has as many entries or bytes as it may (`PENSTOCK_JOURNAL_MAX_ENTRIES`, `…_MAX_BYTES`).

    A loop without end goes on with `task.continue_as`, which begins an empty journal.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}", "journal_full")
        self.key, self.told = key, message


def name_in(key: str) -> str:
    """Return the name inside an entry's key: `pack` of `step:pack#7`."""
    return key.partition(":")[2].partition("#")[0].partition("@")[0]
