"""The worker's side of the SDK (contract §6): `Worker`, `Task`, and the exceptions that handlers raise."""

from penstock.worker._errors import Fail, PossiblySucceeded, Retry, Suspend, TaskConsumedError
from penstock.worker._signals import Signal
from penstock.worker._task import Task
from penstock.worker._worker import Worker
from penstock.worker.durable.children import ChildRun
from penstock.worker.durable.errors import (
    ChildFailed,
    JournalFull,
    NestedStep,
    SignalTimeout,
    StepCanceled,
    StepFailed,
    StepInDoubt,
    StepKeyNeeded,
    TaskSuspended,
)
from penstock.worker.durable.race import Won
from penstock.worker.durable.retries import Retries
from penstock.worker.durable.sync import SyncTask

__all__ = [
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
]
