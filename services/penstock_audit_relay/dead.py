"""Dead letters: outbox data that cannot become an event must neither block other events nor vanish."""

import hashlib
from typing import Any, Final

from nats.js import JetStreamContext

from penstock_audit_relay.entries import Broken, Entry

_ROOM: Final = 4096


class DeadLetters:
    """Publishes broken entries to the dead letter stream, on `<root>.dead.audit`, with the reason in a header."""

    def __init__(self, js: JetStreamContext, root: str, max_bytes: int, log: Any) -> None:
        self.kept = 0
        self._js = js
        self._subject = f"{root}.dead.audit"
        self._max_bytes = max_bytes
        self._log = log

    async def keep(self, entry: Entry) -> None:
        """Publish all broken parts of the entry. Return when the stream has stored them.

        A relay that was killed before it trimmed the outbox publishes them again; equal message ids mark duplicates.
        """
        for broken in entry.broken:
            await self._keep(entry, broken)

    async def _keep(self, entry: Entry, broken: Broken) -> None:
        digest = hashlib.sha256(broken.payload).hexdigest()[:16]
        headers = {
            "Penstock-Dead-Reason": " ".join(broken.why.split())[:1024],
            "Penstock-Outbox": f"{entry.partition}/{entry.id}",
            "Nats-Msg-Id": f"audit-{entry.partition}-{entry.id}-{digest}",
        }
        payload = broken.payload
        if len(payload) + _ROOM > self._max_bytes:
            headers["Penstock-Dead-Size"] = str(len(payload))
            payload = payload[: self._max_bytes - _ROOM]
        await self._js.publish(self._subject, payload, headers=headers, timeout=5.0)
        self.kept += 1
        self._log.error(
            "an audit event is lost to the trail: it is in the dead letters",
            partition=entry.partition, entry=entry.id, reason=broken.why, subject=self._subject,
        )  # fmt: skip
