"""Step 6: text messages that cost money, at most two a second, and no more than the budget."""

import asyncio
import os

from penstock import Client, Task, Worker

NATS_URL = os.environ.get("PENSTOCK_NATS_URL", "nats://localhost:4222")

worker = Worker("nats://localhost:4222")

CENTS = 9


def text(to: str) -> str:
    return f"sent to {to}"  # this belongs to your provider


@worker.handler("text.send")
async def send(task: Task, to: str, budget: str) -> str:
    """Send one text message, and report what it has cost."""
    sent = await task.step("text", text, to)
    await task.report_usage(budget, {"cents": CENTS}, dedup_key=task.execution_id)
    return sent


async def main() -> None:
    async with await Client.connect(NATS_URL) as client:
        budget = await client.budgets.create({"cents": 40})
        quota = await client.quotas.create(max_per_window=2, window_ms=1000)
        await client.submit_many(
            [("text.send", {"to": f"+44 {number}", "budget": budget.budget_id}) for number in range(8)],
            budget_ids=[budget.budget_id],
            quota_id=quota.quota_id,
            tags={"campaign": "summer"},
        )
        print(budget.budget_id)


if __name__ == "__main__":
    asyncio.run(main())
