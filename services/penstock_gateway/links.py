"""`/v1/signals/<token>/<name>`: a link in a mail that sends a signal to a waitpoint.

The waitpoint's token in the path is all that the link's reader needs, and is a secret: no log, no referrer and no
cache gets it. A GET changes nothing, for mail scanners and previews follow links; it shows a page whose button POSTs.
"""

import hashlib
import html
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from penstock import errors
from penstock.bus.payloads import raw_of
from penstock.errors import PenstockError
from penstock.messages.signals import Delivered, SignalDeliver
from penstock.verbs import SIGNAL_DELIVER
from penstock_gateway.answers import JSON, HttpError, body_of, mark, media_type, refusal
from penstock_gateway.asks import answer_of, ask
from penstock_gateway.gateway import Gateway

FORM: Final = "application/x-www-form-urlencoded"
MAX_BYTES: Final = 65_536
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex",
}
PAGE: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    '<meta name="viewport" content="width=device-width"></head>'
    "<body><main><h1>{title}</h1><p>{text}</p>{form}</main></body></html>"
)
BUTTON: Final = '<form method="post"><button>Confirm</button></form>'
SAID: Final = {
    "duplicate": "This was confirmed before; once is enough.",
    "ignored": "Thank you, but nothing waits for this any more.",
}


class Links:
    """The endpoint of signal links."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, request: Request) -> Response:
        try:
            self._gateway.link_rates.take(request.client.host if request.client else "")
            signal = _signal(request)
            if request.method != "POST":
                return page("Please confirm", f"This sends the answer “{signal.name}”.", BUTTON)
            signal.payload = _payload(request, await body_of(request, MAX_BYTES))
            reply = await ask(
                self._gateway,
                SIGNAL_DELIVER,
                msgspec.json.encode(signal),
                request.headers,
                request.scope["request_id"],
            )
            response = answer_of(reply)
            if not _wants_page(request):
                return response
            if response.status_code != 200:
                return _sorry(_error_in(reply.data))
            effect = msgspec.json.decode(reply.data, type=Delivered).effect
            return page("Thank you", SAID.get(effect, "Your answer was taken."))
        except PenstockError as error:
            return _sorry(error) if _wants_page(request) else refusal(error)


def _signal(request: Request) -> SignalDeliver:
    """Read a link. The signal's id follows from it, so that a second click is a duplicate. Raise `invalid_request`."""
    given = dict(request.query_params)
    source = given.pop("source", None)
    if given:
        raise errors.invalid(min(given), "a link takes no such parameter: there is source")
    token, name = request.path_params["token"], request.path_params["name"]
    digest = hashlib.sha256("\n".join([token, name, source or ""]).encode("utf-8", "surrogatepass"))
    signal = {"token": token, "name": name, "signal_id": f"link-{digest.hexdigest()[:40]}"}
    if source is not None:
        signal["source"] = source
    try:
        return msgspec.convert(signal, SignalDeliver)
    except msgspec.ValidationError as error:  # its message names the field and never a value
        raise errors.make("invalid_request", str(error)) from None


def _payload(request: Request, body: bytes) -> Raw:
    """Return what a signal carries: the JSON of the body, or a form's fields; nothing is null."""
    kind = media_type(request)
    if kind == JSON:
        try:
            return raw_of(Raw(body or b"null"))
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise errors.make("invalid_request", f"the payload is no JSON: {error}") from None
    if kind not in ("", FORM):
        raise HttpError(415, f"send {JSON} or a form ({FORM})")
    try:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
    except ValueError:
        raise errors.make("invalid_request", "the form is not valid UTF-8") from None
    return Raw(msgspec.json.encode(fields or None))


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def page(title: str, text: str, form: str = "", status: int = 200) -> Response:
    body = PAGE.format(title=html.escape(title), text=html.escape(text), form=form)
    return HTMLResponse(body, status, headers=HEADERS)


def _error_in(body: bytes) -> PenstockError:
    found: dict[str, Any] = msgspec.json.decode(body)["error"]
    return errors.from_body(found)


def _sorry(error: PenstockError) -> Response:
    text = "This link is not valid, or not any more."
    if error.retryable:
        text = "This did not work just now. Please try again in a moment."
    response = page("Sorry", text, status=error.number)
    mark(response, error.retry_after_ms)
    return response
