"""What all models share: a state machine of their own in Valkey, and its clock."""

import asyncio
from contextlib import AsyncExitStack

from hypothesis.stateful import RuleBasedStateMachine
from redis import Redis

from state_machine import StateMachine


class Model(RuleBasedStateMachine):
    """`machine` runs in `runner`'s event loop; `redis` looks into the same Valkey, which conftest.py has started."""

    valkey_url = ""

    def begin(self, limits: dict[str, int]) -> None:
        """Begin an example with an empty state machine. `limits`: as in `StateMachine.open`."""
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        opening = self.stack.enter_async_context(StateMachine.open(self.valkey_url, limits))
        self.machine = self.runner.run(opening)
        self.redis: Redis[bytes] = Redis.from_url(self.valkey_url)

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            if names := self.redis.keys(f"{self.machine.root}:*"):
                self.redis.unlink(*names)
            self.redis.close()
            self.runner.run(self.stack.aclose())
            self.runner.close()

    @property
    def now(self) -> int:
        """The model's clock, in ms since the example began."""
        return self.machine.skew_ms
