"""Who asks for what is being done now: the user whose request a service handles, for the audit trail.

A context variable, because the name has to come from the request's subject (penstock.bus) to the state machine's events
(penstock.machine) past every handler, and no handler has anything to do with it.
"""

from contextvars import ContextVar
from typing import Final

asking: Final[ContextVar[str | None]] = ContextVar("asking", default=None)
"""The name of the user; None where the deployment knows no users, and for what a service does by itself."""
