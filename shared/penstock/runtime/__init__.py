"""The runtime of a service: settings, logging, metrics, health, due loops, membership, drain.

A service is a function `build(context) -> Service`; `run(name, build)` runs it as a process.
"""

from penstock.runtime.due import DueLoop
from penstock.runtime.process import run
from penstock.runtime.running import Running, start
from penstock.runtime.service import Context, Service
from penstock.runtime.settings import Settings, SettingsError

__all__ = ["Context", "DueLoop", "Running", "Service", "Settings", "SettingsError", "run", "start"]
