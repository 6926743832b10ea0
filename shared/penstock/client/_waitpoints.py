"""`client.waitpoints`: where signals for executions arrive, as an operator sees them."""

from collections.abc import AsyncIterator

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.client._pages import each
from penstock.messages.signals import (
    SecretRotated,
    Waitpoint,
    WaitpointClose,
    WaitpointGet,
    WaitpointList,
    WaitpointRotateSecret,
    WaitpointStatus,
)


class Waitpoints:
    """Looks at waitpoints and closes them. Each call raises the typed error that the service answers."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def get(self, waitpoint_id: str) -> Waitpoint:
        """What has come there, and what is still missing. Never its token."""
        return await self._requester.call(verbs.WAITPOINT_GET, WaitpointGet(waitpoint_id=waitpoint_id))

    def list(
        self,
        *,
        execution_id: str | None = None,
        namespace: str = "default",
        status: WaitpointStatus | None = None,
        page: int = 100,
    ) -> AsyncIterator[Waitpoint]:
        """Those of an execution, or of a namespace, newest first."""
        return each(
            self._requester,
            verbs.WAITPOINT_LIST,
            lambda cursor: WaitpointList(
                execution_id=execution_id, namespace=namespace, status=status, cursor=cursor, limit=page
            ),
        )

    async def close(self, waitpoint_id: str, reason: str = "") -> Waitpoint:
        """Refuse signals to a pending one from now on."""
        request = WaitpointClose(waitpoint_id=waitpoint_id, reason=reason)
        return await self._requester.call(verbs.WAITPOINT_CLOSE, request)

    async def rotate_secret(self, *, grace_ms: int = 86_400_000) -> SecretRotated:
        """Sign tokens with a new key; those of the old one are valid for `grace_ms` more."""
        request = WaitpointRotateSecret(grace_ms=grace_ms)
        return await self._requester.call(verbs.WAITPOINT_ROTATE_SECRET, request)
