"""The caller's side of the SDK (contract §6): `Client` and the handles that it gives out."""

from penstock.client.client import Client
from penstock.client.errors import ExecutionCanceled, ExecutionError, ExecutionFailed
from penstock.client.events import AuditEvent, EventStream
from penstock.client.flow_run import FlowRun
from penstock.client.run import Run

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
