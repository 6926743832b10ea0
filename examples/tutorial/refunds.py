"""Step 4: a refund that a person must approve."""

from datetime import timedelta

from penstock import Fail, Task, Worker

worker = Worker("nats://localhost:4222")


@worker.handler("order.refund")
async def refund(task: Task, order: str, cents: int) -> str:
    """Pay back small amounts at once, large ones when somebody has approved."""
    if cents > 50_00:

        async def ask() -> None:
            waitpoint = await task.create_waitpoint("decision", expires_in=timedelta(days=3))
            # A real shop mails a link with this token. Whoever has the token can decide.
            await task.append_frame("token", waitpoint.token)

        await task.step("ask", ask)
        decision = await task.wait_signal("decision", timeout=timedelta(days=3), default=None)
        if decision is None:
            raise Fail("nobody has decided", "not_approved")
        if not decision.payload["approved"]:
            raise Fail(f"{decision.payload['by']} says no", "not_approved")
    return f"{cents} cents for {order}"


if __name__ == "__main__":
    worker.main()
