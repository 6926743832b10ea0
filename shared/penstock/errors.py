"""All error codes of the contract (§4), each with its class, number and meaning.

The Python exceptions, the wire bodies, the `Nats-Service-Error` headers and the table in
docs/contract.md all come from `TABLE`. Catch one by its class (`ContentionError`), by its own
exception (`errors.StaleLease`) or by `error.code`.
"""

from typing import Any, Final, Literal, NamedTuple

ErrorClass = Literal[
    "contention", "not_found", "conflict", "invalid", "unauthorized", "unavailable", "internal"
]


class ErrorKind(NamedTuple):
    """One row of the error table."""

    code: str
    error_class: ErrorClass
    number: int
    meaning: str

    @property
    def retryable(self) -> bool:
        return self.error_class in ("contention", "unavailable")


_ROWS: Final[tuple[tuple[str, ErrorClass, int, str], ...]] = (
    ("use_claim_resumed_execution", "contention", 409, "it is a resumed execution: claim it with lease.claim_resumed"),
    ("not_a_resumed_execution", "contention", 409, "it is not a resumed execution: claim it with lease.claim"),
    ("execution_not_leaseable", "contention", 409, "the execution is in a state that cannot be leased"),
    ("lease_conflict", "contention", 409, "another worker holds the lease"),
    ("invalid_claim_grant", "contention", 409, "no such grant, or it is for another execution or worker"),
    ("claim_grant_expired", "contention", 409, "the grant was not claimed in time; the execution is back in its queue"),
    ("no_eligible_execution", "contention", 404, "nothing in these lanes may be handed to this worker now"),
    ("waitpoint_not_found", "contention", 404, "no such waitpoint (yet, or any more)"),
    ("waitpoint_pending_use_buffer", "contention", 409, "the waitpoint is pending: nothing waits on it yet"),
    ("stale_graph_revision", "contention", 409, "the flow's graph moved: re-read it and try again"),
    ("execution_not_active", "contention", 409, "the execution is terminal: the outcome came too late"),
    ("execution_not_eligible", "contention", 409, "the execution is not in a state that admits this"),
    ("execution_not_in_eligible_set", "contention", 409, "the execution is held and is not in a ready queue now"),
    ("execution_not_reclaimable", "contention", 409, "the execution's lease was not lost: there is nothing to reclaim"),
    ("no_active_lease", "contention", 409, "nobody holds a lease on the execution"),
    ("rate_limit_exceeded", "contention", 429, "the quota's window is full: try again after retry_after_ms"),
    ("concurrency_limit_exceeded", "contention", 429, "as many run at once as the limit allows"),
    ("retry_exhausted", "contention", 409, "no attempts are left"),
    ("execution_not_found", "not_found", 404, "no such execution"),
    ("flow_not_found", "not_found", 404, "no such flow"),
    ("budget_not_found", "not_found", 404, "no such budget"),
    ("quota_not_found", "not_found", 404, "no such quota"),
    ("lane_not_found", "not_found", 404, "no such lane"),
    ("schedule_not_found", "not_found", 404, "no such schedule"),
    ("bulk_not_found", "not_found", 404, "no such bulk change"),
    ("mirror_rule_not_found", "not_found", 404, "no such mirror rule"),
    ("trigger_not_found", "not_found", 404, "no such trigger"),
    ("journal_entry_not_found", "not_found", 404, "the journal has no such entry"),
    ("journal_full", "conflict", 409, "the journal has as many entries or bytes as it may"),
    ("stale_lease", "conflict", 409, "the fence is not the current lease's: somebody else holds it now"),
    ("lease_expired", "conflict", 409, "the lease ran out before this came"),
    ("lease_revoked", "conflict", 409, "an operator or a cancellation took the lease away"),
    ("illegal_transition", "conflict", 409, "this state does not lead to that one"),
    ("already_terminal", "conflict", 409, "it has ended and is immutable"),
    ("cancel_pending", "conflict", 409, "cancellation was requested: the flow moves only to cancelled"),
    ("revision_mismatch", "conflict", 409, "the flow is at another revision than expected"),
    ("dependency_cycle", "invalid", 400, "these edges form a cycle"),
    ("budget_exceeded", "conflict", 429, "the budget's hard limit is reached"),
    ("idempotency_conflict", "conflict", 409, "this idempotency key was used with another body"),
    ("invalid_request", "invalid", 400, "the request is malformed: the message names the field"),
    ("payload_too_large", "invalid", 413, "the payload is larger than the limit"),
    ("invalid_token", "unauthorized", 401, "the token is wrong, foreign or for another waitpoint"),
    ("not_permitted", "unauthorized", 403, "not in this user's role, or another's lane or worker_id"),
    ("token_expired", "unauthorized", 401, "the token's signing key has been rotated away"),
    ("valkey_unavailable", "unavailable", 503, "Valkey cannot be reached; the change may or may not have happened"),
    ("timeout", "unavailable", 504, "no answer in time; the change may or may not have happened"),
    ("internal", "internal", 500, "a bug in Penstock: please report it"),
)  # fmt: skip

TABLE: Final[dict[str, ErrorKind]] = {row[0]: ErrorKind(*row) for row in _ROWS}


class PenstockError(Exception):
    """Any error of Penstock's contract.

    Attributes: `code`, `error_class`, `number` (HTTP-like), `message`, `retryable`,
    `retry_after_ms` (or None), `detail`.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        detail: dict[str, Any] | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        kind = TABLE.get(code) or ErrorKind(code, "internal", 500, "unknown error code")
        self.code = code
        self.error_class = kind.error_class
        self.number = kind.number
        self.retryable = kind.retryable
        self.message = message or kind.meaning
        self.detail: dict[str, Any] = detail or {}
        self.retry_after_ms = retry_after_ms
        super().__init__(f"{code}: {self.message}")

    def body(self) -> dict[str, Any]:
        """Return the error in the contract's wire form, without the outer `{"error": …}`."""
        body: dict[str, Any] = {
            "code": self.code,
            "class": self.error_class,
            "message": self.message,
            "retryable": self.retryable,
            "detail": self.detail,
        }
        if self.retry_after_ms is not None:
            body["retry_after_ms"] = self.retry_after_ms
        return body


class ContentionError(PenstockError):
    """Retryable: re-read or re-dispatch."""


class NotFoundError(PenstockError):
    """The named entity does not exist."""


class ConflictError(PenstockError):
    """Not retryable: the current state forbids the request."""


class InvalidError(PenstockError):
    """The request is malformed; not retryable."""


class UnauthorizedError(PenstockError):
    """The token does not authorize the request."""


class UnavailableError(PenstockError):
    """Valkey or NATS cannot be reached; retryable."""


class InternalError(PenstockError):
    """A bug in Penstock."""


_CLASSES: Final[dict[ErrorClass, type[PenstockError]]] = {
    "contention": ContentionError,
    "not_found": NotFoundError,
    "conflict": ConflictError,
    "invalid": InvalidError,
    "unauthorized": UnauthorizedError,
    "unavailable": UnavailableError,
    "internal": InternalError,
}


def _exception(kind: ErrorKind) -> type[PenstockError]:
    name = "".join(word.capitalize() for word in kind.code.split("_"))
    return type(name, (_CLASSES[kind.error_class],), {"__doc__": kind.meaning, "__module__": __name__})


EXCEPTIONS: Final[dict[str, type[PenstockError]]] = {code: _exception(kind) for code, kind in TABLE.items()}
_BY_NAME: Final = {exception.__name__: exception for exception in EXCEPTIONS.values()}


def __getattr__(name: str) -> type[PenstockError]:
    """Return the exception class of an error code by its name: `errors.StaleLease` for `stale_lease`."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def make(
    code: str,
    message: str | None = None,
    *,
    detail: dict[str, Any] | None = None,
    retry_after_ms: int | None = None,
) -> PenstockError:
    """Make the exception for an error code, of that code's own class; an unknown code gives InternalError."""
    exception = EXCEPTIONS.get(code, InternalError)
    return exception(code, message, detail=detail, retry_after_ms=retry_after_ms)


def invalid(field: str, message: str) -> PenstockError:
    """Make an `invalid_request` about one field. `message` says what is wrong, without the field's name."""
    return make("invalid_request", f"{field}: {message}", detail={"field": field})


def from_body(body: dict[str, Any]) -> PenstockError:
    """Make the exception for a wire body (the inside of `{"error": …}`)."""
    detail: dict[str, Any] = body.get("detail") or {}
    return make(
        str(body.get("code", "internal")),
        body.get("message"),
        detail=detail,
        retry_after_ms=body.get("retry_after_ms"),
    )
