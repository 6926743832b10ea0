"""The worker's side of the SDK (contract §6): `Worker`, `Task`, and what handlers raise."""

from penstock.worker.errors import Fail, PossiblySucceeded, Retry, Suspend, TaskConsumedError
from penstock.worker.signals import Signal
from penstock.worker.task import Task
from penstock.worker.worker import Worker

__all__ = ["Fail", "PossiblySucceeded", "Retry", "Signal", "Suspend", "Task", "TaskConsumedError", "Worker"]
