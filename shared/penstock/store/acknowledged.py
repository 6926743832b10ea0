"""When a change counts as acknowledged: what Valkey must have done with it before Penstock answers.

    process     nothing more than Valkey's own configuration asks for
    disk        it is written and fsynced to the append-only file (WAITAOF)
    replicas:n  n replicas have it (WAIT)

docs/clusters.md says what each costs, and what can still be lost.
"""

from typing import Any, Final

from penstock.store.link import Explained

WAIT_MS: Final = 2000
"""For this long a change waits for the disk or the replicas. Then its caller hears that the outcome is unknown."""


class NotAcknowledged(Explained):
    """The call was run, but it is not as safe as was asked for: it may be undone by a failure."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the change is not as safe yet as PENSTOCK_ACKNOWLEDGED asks: {why}")


class Acknowledged:
    """The wait at the end of each pipeline, and what its reply means."""

    def __init__(self, text: str = "process") -> None:
        """Raise ValueError for any other text."""
        self._replicas = 0
        self.wait: tuple[Any, ...] | None
        """The command at the end of each pipeline; None if there is nothing to wait for."""
        match text.split(":"):
            case ["process"]:
                self.wait = None
            case ["disk"]:
                self.wait = ("WAITAOF", 1, 0, WAIT_MS)
            case ["replicas", count] if count.isdigit() and int(count):
                self._replicas = int(count)
                self.wait = ("WAIT", self._replicas, WAIT_MS)
            case _:
                raise ValueError(f"it must read process, disk or replicas:n, not {text!r}")

    def refusal(self, reply: Any) -> Exception | None:
        """Return why the reply to `wait` does not acknowledge the calls before it; None if it does."""
        if isinstance(reply, list):  # of WAITAOF: how many servers here and how many replicas have fsynced it
            if reply[0]:
                return None
            return NotAcknowledged("it is not on disk yet (is appendfsync `always` or `everysec`?)")
        if isinstance(reply, int):
            if reply >= self._replicas:
                return None
            return NotAcknowledged(f"{reply} of {self._replicas} replicas have it")
        return reply if isinstance(reply, Exception) else NotAcknowledged(f"it answered {reply!r}")
