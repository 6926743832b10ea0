"""The caller's side of the SDK (contract §6): `Client` and the handles that its methods return."""

from penstock.client._client import Client
from penstock.client._errors import ExecutionCanceled, ExecutionError, ExecutionFailed
from penstock.client._events import AuditEvent, EventStream
from penstock.client._flow_run import FlowRun
from penstock.client._run import Run

__all__ = [
    "AuditEvent",
    "Client",
    "EventStream",
    "ExecutionCanceled",
    "ExecutionError",
    "ExecutionFailed",
    "FlowRun",
    "Run",
]
