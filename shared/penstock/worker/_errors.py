"""Exceptions that a handler may raise, and exceptions that the SDK raises to a handler."""

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, Literal

from penstock.errors import PenstockError
from penstock.messages.signals import Condition, Suspended, WaitpointCreated

TimeoutBehavior = Literal["fail", "cancel", "resume", "escalate"]
Duration = float | timedelta

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_HUMPS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def milliseconds(duration: Duration) -> int:
    """Convert seconds or a timedelta to whole milliseconds, the wire's unit."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    return round(seconds * 1000)


class Retry(Exception):
    """Raise this to fail the attempt and try again, as long as attempts are left.

    `after` is the time until the next attempt, in seconds or as a timedelta. None means the execution's backoff.
    """

    def __init__(
        self, reason: str = "retry requested", *, after: Duration | None = None, category: str = "retry"
    ) -> None:
        super().__init__(reason)
        self.reason, self.after, self.category = reason, after, category


class Fail(Exception):
    """Raise this to fail the execution for good, without another attempt."""

    def __init__(self, reason: str, category: str = "failed") -> None:
        super().__init__(reason)
        self.reason, self.category = reason, category


class Suspend(Exception):
    """Raise this to give the lease back and wait for signals.

    When the condition is met, the handler runs again from its start, with `task.resumed` true and the
    signals in `await task.resumed_by()`. `condition` is a signal name (`"approved"`), a prefix
    (`"review.*"`), the contract's dict, or a `Condition`. None means any signal.

    The sender of a signal needs a token. One way is to create the waitpoint first and pass its token on. This is safe
    even if the worker dies at any moment, because the same key returns the same waitpoint::

        waitpoint = await task.create_waitpoint("approval")
        await mail(link_with(waitpoint.token))
        raise Suspend("approved", waitpoint=waitpoint)

    The other way is `on_suspended`: it is called with the reply (`token`, `waitpoint_id`) once the execution is
    suspended, but never if the worker dies just then. Operators need no token: `client.send_signal`, `penstock send`.
    """

    def __init__(
        self,
        condition: "ConditionLike" = None,
        *,
        reason_code: str = "signal",
        timeout: Duration | None = None,
        timeout_behavior: TimeoutBehavior = "fail",
        waitpoint: WaitpointCreated | str | None = None,
        on_suspended: "Callable[[Suspended], Awaitable[object] | object] | None" = None,
    ) -> None:
        super().__init__(reason_code)
        self.on_suspended = on_suspended
        self.condition, self.reason_code = condition, reason_code
        self.timeout, self.waitpoint = timeout, waitpoint
        self.timeout_behavior: TimeoutBehavior = timeout_behavior


ConditionLike = Condition | dict[str, Any] | str | None


class TaskConsumedError(RuntimeError):
    """The task already has an outcome. The second outcome was not sent."""


class PossiblySucceeded(RuntimeError):
    """An outcome was sent repeatedly without a reply, and the execution's state could not be read either.

    The outcome may or may not have been applied. If it was not, the lease expires and the execution is
    handed to a worker again.
    """

    def __init__(self, execution_id: str, verb: str) -> None:
        super().__init__(f"{verb} of {execution_id} may or may not have been applied")
        self.execution_id, self.verb = execution_id, verb


def category_of(error: BaseException) -> str:
    """Return the failure category of an exception: the code of a contract error, else its `category` attribute
    if that is a token, else its class name in snake_case (`ValueError` → `value_error`, `HTTPStatusError` →
    `http_status_error`).
    """
    if isinstance(error, PenstockError):
        return error.code
    own = getattr(error, "category", None)
    if isinstance(own, str) and _TOKEN.fullmatch(own):
        return own
    name = _HUMPS.sub("_", type(error).__name__).lower()
    return name if _TOKEN.fullmatch(name) else "error"


def text_of(text: str) -> str:
    """Return at most 4096 characters of `text`, with lone surrogates (from a file name, say) as backslash escapes."""
    return text[:4096].encode(errors="backslashreplace").decode()[:4096]


def reason_of(error: BaseException) -> str:
    """Return an error's class and message in at most 4096 characters."""
    try:
        text = str(error)
    except Exception:  # the exception's own __str__ may raise
        text = "its text cannot be had"
    if isinstance(error, PenstockError):
        return text_of(text)  # its text already begins with its code
    return text_of(f"{type(error).__name__}: {text}" if text else type(error).__name__)
