"""Tools for testing code that uses Penstock: a real Penstock inside the test, with a clock that tests can move.

In the `conftest.py` at the top of your tests:

    pytest_plugins = ["penstock.testing"]

and in a test:

    async def test_a_late_retry(penstock):
        client = await penstock.client()
        await penstock.run_worker(worker)
        run = await client.submit("report", max_attempts=2, backoff={"kind": "fixed", "delay_ms": 3 * DAY_MS})
        await penstock.wait_for(run, "retry_wait")
        penstock.clock.move(timedelta(days=3))
        assert await run.result(timeout=10) == "at last"

Nothing is faked. One nats-server and one valkey-server run for the whole session. Each test runs all six
services in its own event loop, under its own root. This needs `pip install 'penstock[testing]'` and a
valkey-server on PATH. docs/testing.md tells more.
"""

from penstock.testing.clock import Clock
from penstock.testing.crashes import Crash, crash_everywhere
from penstock.testing.fixtures import penstock, penstock_servers
from penstock.testing.inside import Penstock
from penstock.testing.replays import replay_check
from penstock.testing.servers import NatsServer, Urls, ValkeyServer, servers
from penstock.worker.durable.replay import Replay

__all__ = [
    "Clock",
    "Crash",
    "NatsServer",
    "Penstock",
    "Replay",
    "Urls",
    "ValkeyServer",
    "crash_everywhere",
    "penstock",
    "penstock_servers",
    "replay_check",
    "servers",
]
