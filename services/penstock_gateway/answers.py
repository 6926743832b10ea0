"""HTTP answers: a service's reply as it is, or an error in the contract's form with its number as the status."""

import asyncio
from typing import Any, Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from penstock import errors
from penstock.errors import PenstockError

JSON: Final = "application/json"
BODY_S: Final = 30.0
"""Seconds that a client may take to send a body."""


class HttpError(Exception):
    """A request that HTTP itself refuses, such as an unknown path or media type. Its code is `invalid_request`."""

    def __init__(self, status: int, message: str, detail: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = errors.make("invalid_request", message, detail=detail)


def json_answer(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type=JSON)


def refusal(error: PenstockError, status: int | None = None) -> Response:
    """Return the answer for an error. `status` is the error's number, where HTTP has not one of its own."""
    response = json_answer({"error": error.body()}, status or error.number)
    mark(response, error.retry_after_ms)
    return response


def mark(response: Response, retry_after_ms: int | None) -> None:
    """Add the headers that HTTP asks for with some statuses."""
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if retry_after_ms is not None:
        response.headers["Retry-After"] = str(max(1, -(-retry_after_ms // 1000)))


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def body_of(request: Request, limit: int) -> bytes:
    """Read the body. Raise `payload_too_large` beyond `limit` bytes, without reading on, and HttpError."""
    parts: list[bytes] = []
    size = int(request.headers.get("content-length", "0"))  # h11 has checked that it is a number
    try:
        async with asyncio.timeout(BODY_S):
            if size <= limit:
                size = 0
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        break
                    parts.append(part)
    except ClientDisconnect:
        raise HttpError(400, "the body has ended early") from None
    except TimeoutError:
        raise HttpError(408, f"the body took longer than {BODY_S:g} s") from None
    if size > limit:
        raise errors.make(
            "payload_too_large",
            f"the request has more than the {limit} bytes that the gateway takes",
            detail={"limit": limit},
        )
    return b"".join(parts)
