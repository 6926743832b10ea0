"""`Offload`: keeps large payloads in a JetStream object store and sends references to them."""

import asyncio
import copy
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import ClassVar, Final, Self

from nats import errors as nats_errors
from nats.aio.client import Client as Nats
from nats.js import JetStreamContext
from nats.js import errors as js_errors
from nats.js.object_store import VALID_BUCKET_RE, ObjectStore

from penstock import errors
from penstock.codecs._codec import CodecError, ObjectMissing, PayloadCodec, Undecodable
from penstock.ids import uuid7

# For one object, with all its chunks.
TRANSFER_S: Final = 30.0
AT_ONCE: Final = 16
_BUCKET_GONE: Final = (js_errors.NoStreamResponseError, js_errors.NotFoundError)


class Offload(PayloadCodec):
    """Puts payloads larger than `limit` into a JetStream object store bucket.

    * **limit** - The most bytes that a payload may have to stay where it is.
    * **bucket** - The bucket's name. The first use makes the bucket, if it does not exist.
    * **ttl** - How long a new bucket keeps an object, in seconds or as a timedelta: longer than the time from a submit
      to the end of its execution's retention. A bucket that exists keeps its own.
    * **replicas** - Copies of a new bucket: 1 on one NATS node, 3 on a cluster.

    `encode` and `decode` raise `timeout` if the object store cannot be reached.
    """

    name: ClassVar[str] = "offload"

    def __init__(
        self,
        *,
        limit: int = 256 * 1024,
        bucket: str = "penstock-payloads",
        ttl: float | timedelta = timedelta(days=30),
        replicas: int = 1,
    ) -> None:
        self._ttl = ttl.total_seconds() if isinstance(ttl, timedelta) else float(ttl)
        if limit < 0:
            raise ValueError("limit is a number of bytes, 0 or more")
        if self._ttl <= 0:
            raise ValueError("ttl must be more than 0 seconds")
        if VALID_BUCKET_RE.fullmatch(bucket) is None:
            raise ValueError(f"a bucket's name has letters, digits, _ and - only: {bucket!r} does not")
        self._limit = limit
        self._bucket = bucket
        self._replicas = replicas
        self._js: JetStreamContext | None = None
        self._store: ObjectStore | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)

    def on(self, nats: Nats) -> Self:
        bound = copy.copy(self)
        bound._js = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
        bound._store = None
        bound._slots = asyncio.Semaphore(AT_ONCE)
        return bound

    async def encode(self, payload: bytes) -> Mapping[str, str] | None:
        if len(payload) <= self._limit:
            return None
        name = uuid7()
        async with self._reaching():
            store = await self._opened(make=True)
            try:
                await store.put(name, payload)
            except _BUCKET_GONE:  # deleted since it was opened
                self._store = None
                store = await self._opened(make=True)
                await store.put(name, payload)
        return {"bucket": self._bucket, "object": name, "size": str(len(payload))}

    async def decode(self, fields: Mapping[str, str]) -> bytes:
        bucket, name = fields.get("bucket", ""), fields.get("object", "")
        if bucket != self._bucket:
            raise CodecError(f"the payload is in the bucket {bucket!r}; this side uses {self._bucket!r}")
        async with self._reaching():
            try:
                store = await self._opened(make=False)
                return (await store.get(name)).data or b""
            except js_errors.NotFoundError:  # nats-py's errors for a missing bucket and a missing object
                raise ObjectMissing(
                    f"the payload's object {name!r} is not in the bucket {bucket!r} any more"
                ) from None
            except (js_errors.DigestMismatchError, js_errors.BadObjectMetaError):
                raise Undecodable(
                    f"the payload's object {name!r} in the bucket {bucket!r} is damaged"
                ) from None

    async def _opened(self, *, make: bool) -> ObjectStore:
        if self._js is None:
            raise CodecError("Offload has no connection: give it to a Client or a Worker as codec=")
        if self._store is None:
            try:
                self._store = await self._js.object_store(self._bucket)
            except js_errors.BucketNotFoundError:
                if not make:
                    raise
                self._store = await self._js.create_object_store(  # pyright: ignore[reportUnknownMemberType]
                    self._bucket, ttl=self._ttl, replicas=self._replicas
                )
        return self._store

    @asynccontextmanager
    async def _reaching(self) -> AsyncGenerator[None]:
        """Bound the time and the number of transfers. Raise `timeout` if the object store cannot be reached."""
        try:
            async with self._slots, asyncio.timeout(TRANSFER_S):
                yield
        except (nats_errors.Error, OSError) as error:  # TimeoutError is an OSError
            text = f"the object store {self._bucket!r} cannot be reached ({type(error).__name__})"
            raise errors.make("timeout", text, detail={"bucket": self._bucket}) from None
