"""A connection's flush vouches for all that was sent before it."""

from nats.aio.msg import Msg

from penstock.bus.connection import connect


async def test_flush_vouches_for_subscriptions(nats_url: str) -> None:
    answering, asking = await connect(nats_url, "answering"), await connect(nats_url, "asking")

    async def answer(msg: Msg) -> None:
        await msg.respond(b"here")

    for number in range(100):
        for each in range(20):
            await answering.subscribe(f"flush.{number}.{each}", cb=answer)
        await answering.flush()
        assert (await asking.request(f"flush.{number}.19", b"", timeout=5)).data == b"here"
    await answering.close()
    await asking.close()
