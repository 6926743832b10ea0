"""A worker that retries after three days. Its test, test_late_report.py, takes milliseconds."""

from datetime import timedelta

from penstock import Retry, Task, Worker

worker = Worker("nats://localhost:4222")
LATER = timedelta(days=3)


@worker.handler("report")
async def report(task: Task, month: str) -> str:
    """Make the report of a month. The month's books are closed only at the second attempt."""
    if task.attempt_index == 1:
        raise Retry(after=LATER, reason="the books are not closed")
    return f"report of {month}"


if __name__ == "__main__":
    worker.main()
