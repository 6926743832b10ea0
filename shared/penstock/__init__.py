"""Penstock: durable execution as NATS services, with state in Valkey."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.client import (
        AuditEvent,
        Client,
        ExecutionCanceled,
        ExecutionError,
        ExecutionFailed,
        FlowRun,
        Run,
    )
    from penstock.worker import (
        ChildFailed,
        ChildRun,
        Fail,
        JournalFull,
        NestedStep,
        PossiblySucceeded,
        Retries,
        Retry,
        Signal,
        SignalTimeout,
        StepCanceled,
        StepFailed,
        StepInDoubt,
        StepKeyNeeded,
        Suspend,
        SyncTask,
        Task,
        TaskConsumedError,
        TaskSuspended,
        Won,
        Worker,
    )

__version__ = "0.2.0.dev0"

__all__ = [
    "AuditEvent",
    "ChildFailed",
    "ChildRun",
    "Client",
    "ExecutionCanceled",
    "ExecutionError",
    "ExecutionFailed",
    "Fail",
    "FlowRun",
    "JournalFull",
    "NestedStep",
    "PenstockError",
    "PossiblySucceeded",
    "Retries",
    "Retry",
    "Run",
    "Signal",
    "SignalTimeout",
    "StepCanceled",
    "StepFailed",
    "StepInDoubt",
    "StepKeyNeeded",
    "Suspend",
    "SyncTask",
    "Task",
    "TaskConsumedError",
    "TaskSuspended",
    "Won",
    "Worker",
    "__version__",
]

_WORKER: Final = frozenset(
    {
        "ChildFailed",
        "ChildRun",
        "Fail",
        "JournalFull",
        "NestedStep",
        "PossiblySucceeded",
        "Retries",
        "Retry",
        "Signal",
        "SignalTimeout",
        "StepCanceled",
        "StepFailed",
        "StepInDoubt",
        "StepKeyNeeded",
        "Suspend",
        "SyncTask",
        "Task",
        "TaskConsumedError",
        "TaskSuspended",
        "Won",
        "Worker",
    }
)


def __getattr__(name: str) -> Any:
    """Load the SDK on first use, so that a service that imports only `penstock.errors` does not load it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module("penstock.worker" if name in _WORKER else "penstock.client")
    value = globals()[name] = getattr(module, name)
    return value
