"""The state machine: its operations, typed, and what Python knows of its rules."""

from penstock.machine.machine import DeploymentError, Machine
from penstock.machine.op import Op

__all__ = ["DeploymentError", "Machine", "Op"]
