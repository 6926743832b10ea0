"""Where answers may go: a request names the subject of its reply, and whoever may send requests could name any.

A service is allowed to publish where its callers are not. It must not be talked into writing to the audit trail, to
verbs, hints or workers, or to the server's own subjects.
"""

import logging
from collections.abc import Sequence
from typing import Final

from penstock.throttle import Throttle

log: Final = logging.getLogger("penstock.bus")


class ReplyGuard:
    """Says which reply subjects are answered. `prefixes`, where given, are all that there are (`_INBOX.`)."""

    def __init__(self, root: str, prefixes: Sequence[str] = ()) -> None:
        self.refused = 0
        """Requests that were dropped, for the metrics."""
        self._root = root
        self._own = f"{root}."
        self._prefixes = tuple(prefixes)
        self._throttle = Throttle()

    def admits(self, reply: str) -> bool:
        """Whether a request with this reply subject may be served; an empty one asks for no answer."""
        if not reply:
            return True
        internal = reply.startswith(("$", self._own)) or reply == self._root
        if not internal and (not self._prefixes or reply.startswith(self._prefixes)):
            return True
        self.refused += 1
        if self._throttle.passes():
            log.warning(
                "a request was dropped: its reply would go to %r (%d such requests so far)",
                reply[:200],
                self.refused,
            )
        return False
