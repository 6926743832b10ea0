"""Runs payloads of messages through codecs: all payload fields of a request, and of a reply, wherever they stand.

What a codec makes is an *envelope*, the JSON object `{"penstock.codec": {"codec": <name>, …}}`. Services merge objects
at their top level: an edge's result into the input of the member that the edge leads to, a patch into a flow's state.
So an envelope has that one key, and what stands beside the key was merged into it. A state is coded value by value.
"""

import asyncio
import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw, Struct
from nats.aio.client import Client as Nats

from penstock import errors
from penstock.bus.payloads import Plan, plan_of
from penstock.codecs._codec import CodecError, PayloadCodec, Undecodable, UnknownCodec
from penstock.messages.common import CODED, NULL, unreadable

M = TypeVar("M", bound=Struct)
T = TypeVar("T")

_MARK: Final = f'"{CODED}"'.encode()
_starts_coded: Final = re.compile(rb"\{" + re.escape(_MARK)).match
_STATES: Final = frozenset({"state", "state_patch"})
_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_fields: Final = msgspec.json.Decoder(dict[str, str]).decode
_encode: Final = msgspec.json.encode

Codecs = PayloadCodec | Sequence[PayloadCodec] | None
"""What users give as `codec=`. Of several codecs, each gets what the one before it made."""


class Coding:
    """Codecs at work on the messages of one connection."""

    def __init__(self, codecs: Sequence[PayloadCodec]) -> None:
        self._codecs = codecs
        self._by_name = {codec.name: codec for codec in codecs}
        if len(self._by_name) != len(codecs):
            raise ValueError("each codec can be used once: give one AesGcm all keys")

    async def encode(self, message: M) -> M:
        """Return a copy of a request with its payloads coded. Raise `CodecError`, or `timeout` (`Offload`)."""
        plan = plan_of(type(message))
        return message if plan is None else await self._encoded(message, plan)

    async def encode_payload(self, payload: Raw) -> Raw:
        """Return one payload, coded. null stays null: a service tells by it that there is no input or result."""
        if payload == NULL:
            return payload
        data, inside = bytes(payload), ""
        for codec in self._codecs:
            fields = await _use(codec, codec.encode(data))
            if fields is not None:
                of = {"of": inside} if inside else {}
                data = _encode({CODED: {"codec": codec.name, **of, **_checked(codec, fields)}})
                inside = codec.name
        return Raw(data) if inside else payload

    async def decode(self, message: Struct, form: Any) -> None:
        """Decode the payloads of a message of type `form` (`Page[Record]`, say: an instance does not know), in place.

        One that cannot be decoded stays as it is, and `messages.common.readable` raises the error. So a list can be
        read although the key of one record is gone.
        """
        plan = plan_of(form)
        if plan is not None:
            await self._decode(message, plan)

    async def decode_payload(self, payload: Raw) -> Raw:
        """Return a payload, decoded, with what services merged into it. Raise as `encode` does."""
        data = bytes(payload)
        if _MARK not in data or not data.lstrip().startswith(b"{"):
            return payload
        merged = _object(data)
        envelope = merged.pop(CODED, None)
        whole = None if envelope is None else await self._opened(envelope)
        if whole is not None and not merged:
            return Raw(whole)
        values = await asyncio.gather(*map(self._decode_value, merged.values()))
        merged = dict(zip(merged, values, strict=True))
        if whole is None:
            return Raw(_encode(merged))
        try:
            return Raw(_encode(_object(whole) | merged))
        except msgspec.ValidationError:
            names = ", ".join(merged)
            raise CodecError(f"the payload is no object, but was given results of edges: {names}") from None

    async def _encoded(self, message: M, plan: Plan) -> M:
        coded: dict[str, Any] = {}
        for name, _ in plan.own:
            value = getattr(message, name)
            if value is not UNSET:
                code = self._encode_state if name.removeprefix("raw_") in _STATES else self.encode_payload
                coded[name] = await code(value)
        for name, inner in plan.inner:
            value = getattr(message, name)
            if isinstance(value, list):
                held = cast("list[Struct]", value)
                coded[name] = await asyncio.gather(*(self._encoded(each, inner) for each in held))
            elif value is not None:
                coded[name] = await self._encoded(value, inner)
        return msgspec.structs.replace(message, **coded)

    async def _encode_state(self, state: Raw) -> Raw:
        """Code each value of a state, or of a patch, for itself: services merge the two by their keys."""
        if state == NULL:
            return state
        try:
            values = _object(state)
        except msgspec.ValidationError:
            raise errors.invalid(
                "state", "with a codec, a flow's state and its patches are objects"
            ) from None
        coded = await asyncio.gather(*map(self.encode_payload, values.values()))
        return Raw(_encode(dict(zip(values, coded, strict=True))))

    async def _decode(self, message: Struct, plan: Plan) -> None:
        for name, _ in plan.own:
            try:
                setattr(message, name, await self.decode_payload(getattr(message, name)))
            except (CodecError, errors.PenstockError) as error:
                unreadable(message, name, error)
        for name, inner in plan.inner:
            value = getattr(message, name)
            if isinstance(value, list):
                held = cast("list[Struct]", value)
                await asyncio.gather(*(self._decode(each, inner) for each in held))
            elif value is not None:
                await self._decode(value, inner)

    async def _decode_value(self, value: Raw) -> Raw:
        """Decode a value if it is an envelope."""
        data = bytes(value)
        if _MARK not in data or not data.startswith(b"{"):
            return value
        fields = _object(data)
        return Raw(await self._opened(fields[CODED])) if fields.keys() == {CODED} else value

    async def _opened(self, envelope: Raw) -> bytes:
        """Return the payload in an envelope. `of` names the codec of the envelope inside it, if there is one."""
        while True:
            try:
                fields = _fields(envelope)
                name, inside = fields.pop("codec"), fields.pop("of", None)
            except (msgspec.MsgspecError, KeyError):
                raise Undecodable(f"what stands under {CODED!r} is not what a codec makes") from None
            codec = self._by_name.get(name)
            if codec is None:
                have = ", ".join(self._by_name)
                raise UnknownCodec(f"the payload was made by the codec {name!r}; this side has {have}")
            data = await _use(codec, codec.decode(fields))
            if inside is None:
                return data
            try:
                envelope = _object(data)[CODED]
            except (msgspec.MsgspecError, KeyError):
                raise Undecodable(f"the codec {name!r} gave no payload of the codec {inside!r}") from None


def coding_of(codecs: Codecs, nats: Nats) -> Coding | None:
    """Return the codecs at work on a connection, or None without a codec."""
    several = [codecs] if isinstance(codecs, PayloadCodec) else list(codecs or ())
    return Coding([codec.on(nats) for codec in several]) if several else None


def is_coded(payload: Raw) -> bool:
    """Return whether a payload as a whole is an envelope. Cheap: it looks at the first bytes only."""
    return _starts_coded(payload) is not None


async def _use(codec: PayloadCodec, work: Awaitable[T]) -> T:
    """Await a codec's work. Any error of a codec is a `CodecError`, so that an attempt can fail because of it."""
    try:
        return await work
    except (CodecError, errors.PenstockError):
        raise
    except Exception as error:
        raise CodecError(f"the codec {codec.name!r} failed ({type(error).__name__})") from error


def _checked(codec: PayloadCodec, fields: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in fields.items():
        if "{" in value or "}" in value:
            raise CodecError(f"the codec {codec.name!r} made a field {name!r} with braces")
        if name in ("codec", "of"):
            raise CodecError(
                f"the codec {codec.name!r} made a field {name!r}: this name is the envelope's own"
            )
    return fields
