"""`POST /v1/<resource>/<verb>`: any verb of the contract; the body and the answer are those of NATS, byte for byte."""

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgspec
from msgspec import Raw
from nats.aio.msg import Msg
from starlette.requests import Request
from starlette.responses import Response

from penstock import errors
from penstock.bus.request_id import HEADER
from penstock.ids import TRACEPARENT_PATTERN
from penstock.secure.roles import PERMISSIONS
from penstock.verbs import VERBS, Verb
from penstock_gateway.answers import JSON, HttpError, body_of, mark, media_type
from penstock_gateway.gateway import TRACEPARENT, Gateway
from penstock_gateway.tokens import Bearer

_traceparent: Final = re.compile(TRACEPARENT_PATTERN).match
_one: Final = msgspec.json.Decoder(dict[str, Raw])
_many: Final = msgspec.json.Decoder(list[dict[str, Raw]])


class _Waits(msgspec.Struct):
    retry_after_ms: int | None = None


class _Refusal(msgspec.Struct):
    error: _Waits


_refusal: Final = msgspec.json.Decoder(_Refusal)


class Asks:
    """The endpoint of all verbs."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, request: Request) -> Response:
        bearer = self._gateway.admit(request)
        verb = VERBS.get(f"{request.path_params['resource']}.{request.path_params['verb']}")
        if verb is None:
            raise HttpError(404, "there is no such verb: GET /v1/openapi.json has them all")
        if verb.name not in PERMISSIONS[bearer.role].verbs:
            _refuse(verb, bearer)
        body = await body_of(request, self._gateway.max_bytes)
        if media_type(request) != JSON and (body or media_type(request)):
            raise HttpError(415, f"send the request as JSON, with `Content-Type: {JSON}`")
        return answer_of(await ask(self._gateway, verb, body, request.headers, request.scope["request_id"]))


async def ask(
    gateway: Gateway, verb: Verb[Any, Any], body: bytes, headers: Mapping[str, str], request_id: str
) -> Msg:
    """Send a request with its id and its trace context. Raise as `Bus.ask`."""
    passed = {HEADER: request_id}
    context = headers.get(TRACEPARENT, "")
    if _traceparent(context):
        passed[TRACEPARENT] = context
        body = _traced(verb, body, context)
    return await gateway.bus.ask(verb, body, passed)


def answer_of(reply: Msg) -> Response:
    """Return a service's reply as an answer: the number of its error is the status."""
    status = int((reply.headers or {}).get("Nats-Service-Error-Code", 200))
    response = Response(reply.data, status, media_type=JSON)
    if status != 200:
        try:
            mark(response, _refusal.decode(reply.data).error.retry_after_ms)
        except msgspec.MsgspecError:
            mark(response, None)
    return response


def _refuse(verb: Verb[Any, Any], bearer: Bearer) -> NoReturn:
    raise errors.make(
        "not_permitted", f"the role {bearer.role} may not ask for {verb.name}", detail={"verb": verb.name}
    )


def _traced(verb: Verb[Any, Any], body: bytes, context: str) -> bytes:
    """Return the body with the header's trace context, where the verb has a field for one and the body gives none.

    What makes executions keeps its context in them, for the spans of their attempts (docs/tracing.md). A body that
    is no JSON object is left as it is: the service refuses it.
    """
    if TRACEPARENT not in verb.request.__struct_fields__:
        return body
    given = Raw(msgspec.json.encode(context))
    try:
        if not body.lstrip().startswith(b"["):
            return msgspec.json.encode({TRACEPARENT: given, **_one.decode(body or b"{}")})
        if not verb.batch:
            return body
        return msgspec.json.encode([{TRACEPARENT: given, **each} for each in _many.decode(body)])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body
