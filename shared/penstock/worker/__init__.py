"""The worker's side of the SDK (contract §6): `Worker`, `Task`, and the exceptions that handlers raise."""

from penstock.worker._errors import Fail, PossiblySucceeded, Retry, Suspend, TaskConsumedError
from penstock.worker._signals import Signal
from penstock.worker._task import Task
from penstock.worker._worker import Worker

__all__ = ["Fail", "PossiblySucceeded", "Retry", "Signal", "Suspend", "Task", "TaskConsumedError", "Worker"]
