"""The state machine in Valkey, for Python: its typed operations, and the rules that Python applies itself."""

from penstock.machine.machine import DeploymentError, Machine
from penstock.machine.op import Op

__all__ = ["DeploymentError", "Machine", "Op"]
