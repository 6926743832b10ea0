"""The snippet in docs/durable-functions.md registers as it stands."""

from datetime import timedelta
from pathlib import Path

from penstock import Fail, Retries, Task, Worker

PAGE = Path(__file__).resolve().parents[2] / "docs/durable-functions.md"


def test_the_pages_handler_can_be_registered() -> None:
    code = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
    worker = Worker()
    names = {"worker": worker, "Task": Task, "Retries": Retries, "Fail": Fail, "timedelta": timedelta}
    exec(compile(code, str(PAGE), "exec"), names)
    assert "order" in worker._handlers
