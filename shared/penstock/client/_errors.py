"""Exceptions for executions that end without a result."""

from penstock.messages.common import Record


class ExecutionError(Exception):
    """The execution ended without a result. `record` is the execution's record, as `execution.get` returns it."""

    def __init__(self, record: Record, text: str) -> None:
        super().__init__(text)
        self.record = record


class ExecutionFailed(ExecutionError):
    """The execution failed. `reason` and `category` are those of its last failure."""

    def __init__(self, record: Record) -> None:
        failure = record.failure or {}
        self.reason = str(failure.get("reason") or record.reason or "unknown")
        self.category = str(failure.get("category") or "unknown")
        super().__init__(
            record, f"{record.kind} {record.execution_id} failed ({self.category}): {self.reason}"
        )


class ExecutionCanceled(ExecutionError):
    """The execution was canceled. `outcome` is `canceled`, or `skipped` for a flow member that is no longer needed."""

    def __init__(self, record: Record) -> None:
        self.outcome = record.outcome or "canceled"
        super().__init__(record, f"{record.kind} {record.execution_id} was {self.outcome}")
