"""`client.waitpoints`: the points where executions receive signals, for operators."""

from collections.abc import AsyncIterator

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.client._pages import each
from penstock.messages.signals import (
    KeptSignal,
    SecretRotated,
    SignalList,
    Waitpoint,
    WaitpointClose,
    WaitpointGet,
    WaitpointList,
    WaitpointRotateSecret,
    WaitpointStatus,
)


class Waitpoints:
    """Methods to list, read and close waitpoints, and to read their signals.

    Each raises the typed error that the service replies with.
    """

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def get(self, waitpoint_id: str) -> Waitpoint:
        """Return a waitpoint, with the signals it has received and still needs, but never with its token."""
        return await self._requester.call(verbs.WAITPOINT_GET, WaitpointGet(waitpoint_id=waitpoint_id))

    def list(
        self,
        *,
        execution_id: str | None = None,
        namespace: str = "default",
        status: WaitpointStatus | None = None,
        page: int = 100,
    ) -> AsyncIterator[Waitpoint]:
        """Iterate over the waitpoints of an execution, or else of a namespace, newest first."""
        return each(
            self._requester,
            verbs.WAITPOINT_LIST,
            lambda cursor: WaitpointList(
                execution_id=execution_id, namespace=namespace, status=status, cursor=cursor, limit=page
            ),
        )

    def signals(self, waitpoint_id: str, *, page: int = 100) -> AsyncIterator[KeptSignal]:
        """Iterate over the signals that a waitpoint keeps, in the order of arrival.

        A waitpoint that has ended keeps its signals for the retention of its execution, at most for 24 hours.
        """
        return each(
            self._requester,
            verbs.SIGNAL_LIST,
            lambda cursor: SignalList(waitpoint_id=waitpoint_id, cursor=cursor, limit=page),
        )

    async def close(self, waitpoint_id: str, reason: str = "") -> Waitpoint:
        """Close a pending waitpoint: signals to it are refused from now on."""
        request = WaitpointClose(waitpoint_id=waitpoint_id, reason=reason)
        return await self._requester.call(verbs.WAITPOINT_CLOSE, request)

    async def rotate_secret(self, *, grace_ms: int = 86_400_000) -> SecretRotated:
        """Sign new tokens with a new key. Tokens signed with the old key stay valid for `grace_ms`."""
        request = WaitpointRotateSecret(grace_ms=grace_ms)
        return await self._requester.call(verbs.WAITPOINT_ROTATE_SECRET, request)
