"""A service's life: settings, logging, metrics, health, due loops, membership, drain.

A service is a `build(context) -> Service`; `run(name, build)` is its whole process.
"""

from penstock.runtime.due import DueLoop
from penstock.runtime.settings import Settings, SettingsError

__all__ = ["DueLoop", "Settings", "SettingsError"]
