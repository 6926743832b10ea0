"""Check reply subjects: a request names the subject of its reply, and a caller could name any subject.

A service may publish to subjects that its callers may not publish to. A caller must not be able to make a service
write to the audit trail, to verbs, hints or workers, or to the server's own subjects.
"""

import logging
from collections.abc import Sequence
from typing import Final

from penstock.throttle import Throttle

log: Final = logging.getLogger("penstock.bus")


class ReplyGuard:
    """Check of reply subjects. If `prefixes` are given, a reply subject must begin with one of them (`_INBOX.`)."""

    def __init__(self, root: str, prefixes: Sequence[str] = ()) -> None:
        self.refused = 0
        """Number of dropped requests, for the metrics."""
        self._root = root
        self._own = f"{root}."
        self._prefixes = tuple(prefixes)
        self._throttle = Throttle()

    def admits(self, reply: str, inbox: str = "") -> bool:
        """Return whether a request with this reply subject may be served. An empty subject asks for no reply.

        `inbox`: what the caller's own reply subjects begin with, in a secured deployment.
        """
        if not reply:
            return True
        internal = reply.startswith(("$", self._own)) or reply == self._root
        if (
            not internal
            and reply.startswith(inbox)
            and (not self._prefixes or reply.startswith(self._prefixes))
        ):
            return True
        self.refused += 1
        if self._throttle.passes():
            log.warning(
                "a request was dropped: its reply would go to %r (%d such requests so far)",
                reply[:200],
                self.refused,
            )
        return False
