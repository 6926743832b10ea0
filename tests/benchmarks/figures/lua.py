"""What the three calls of a plain execution cost Valkey, without services: `create`, `hand_out`, `complete`.

Each is called with 1 and with 64 executions at a time, and timed by Valkey's slow log: the least of many calls is
the figure, which on a busy machine is the only steady one. What the append-only file grows by is exact.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import redis

import servers
from benchmarks.peers.common import TEXT
from benchmarks.plan import Plan
from penstock.ids import new_id
from penstock.machine.op import Op
from penstock.machine.ops import lease_keeper, scheduler
from penstock.messages.executions import ExecutionSpec
from penstock.store import library

SIZES: Final = (1, 64)
CALLS: Final = {"create": "scheduler", "hand_out": "scheduler", "complete": "lease_keeper"}
_QUEUED: Final = 512
_ROOT: Final = "bench:{0}"
_LIMITS: Final = json.dumps(
    {
        "max_payload_bytes": 524_288,
        "idempotency_ttl_ms": 86_400_000,
        "grant_ttl_ms": 5_000,
        "retention_ms": 604_800_000,
        "progress_events_ms": 1_000,
        "event_ttl_ms": 60_000,
    }
)
_SPEC: Final = ExecutionSpec(kind="noop", raw_input=cast("Any", f'"{TEXT}"'))
"""As in a service, where payloads are text."""


def measure(plan: Plan) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        server = servers.ValkeyServer(Path(name), durability=plan.durability)
        server.start()
        try:
            bench = Bench(redis.Redis(port=server.port, protocol=2), library.assemble()[0])
            return {
                figure: value
                for size in SIZES
                for figure, value in bench.figures(size, plan.floor_calls).items()
            }
        finally:
            server.kill()


class Bench:
    """The library's functions in one Valkey, called as the services call them."""

    def __init__(self, valkey: "redis.Redis", code: str) -> None:
        self._valkey: Any = valkey
        self._valkey.function_load(code)
        self._valkey.config_set("slowlog-log-slower-than", 0)
        self._calls = 0
        for _ in range(_QUEUED // max(SIZES)):  # so that the sorted sets are no longer short lists
            self._create(max(SIZES), {})
        for _ in range(4):  # Lua's caches
            self.round(max(SIZES))

    def figures(self, size: int, rounds: int) -> dict[str, float]:
        """Return what one execution costs in calls of `size` executions: least µs of each call, bytes in the AOF.

        The bytes of one alone are those of one that goes to a waiting worker in the call that creates it.
        """
        least = dict.fromkeys(CALLS, float("inf"))
        before = self._aof_bytes()
        for _ in range(rounds):
            for call, spent in self.round(size).items():
                least[call] = min(least[call], spent)
        if size == 1:
            before = self._aof_bytes()
            for _ in range(rounds):
                self._eager_round()
        grown = (self._aof_bytes() - before) / (rounds * size)
        return {f"lua_{call}_{size}": spent / size for call, spent in least.items()} | {f"aof_{size}": grown}

    def round(self, size: int) -> dict[str, int]:
        """Let `size` executions live, in three calls. Return the µs of each."""
        spent: dict[str, int] = {}
        self._create(size, spent)
        taker = scheduler.Taker(worker_id="worker-1", max=size, lease_ttl_ms=30_000, start=True)
        hand_out = scheduler.HandOut(
            takers=[taker], lanes=["default"], capabilities=[], kinds=["noop"], max=size
        )
        (given,) = self._call("hand_out", [hand_out], spent)
        self._complete(given["tasks"][0], spent)
        return spent

    def _eager_round(self) -> None:
        """Let one execution live that a worker waits for, in two calls."""
        spent: dict[str, int] = {}
        taker = scheduler.Taker(worker_id="worker-1", max=1, lease_ttl_ms=30_000, start=True)
        create = scheduler.Create(id=new_id(0), namespace="default", spec=_SPEC, taker=taker)
        (made,) = self._call("create", [create], spent)
        self._complete([made["task"]], spent)

    def _complete(self, tasks: Sequence[dict[str, Any]], spent: dict[str, int]) -> None:
        completes = [
            lease_keeper.Complete(
                execution_id=task["execution_id"],
                attempt_index=task["attempt_index"],
                lease_id=task["lease_id"],
                lease_epoch=task["lease_epoch"],
            )
            for task in tasks
        ]
        states = [reply.get("state") for reply in self._call("complete", completes, spent)]
        if states != ["completed"] * len(tasks):
            raise RuntimeError(f"not all were completed: {states}")

    def _create(self, size: int, spent: dict[str, int]) -> None:
        creates = [scheduler.Create(id=new_id(0), namespace="default", spec=_SPEC) for _ in range(size)]
        self._call("create", creates, spent)

    def _call(self, name: str, commands: Sequence[Op[Any]], spent: dict[str, int]) -> list[Any]:
        self._calls += 1
        header = b"".join(
            map(msgspec.msgpack.encode, (0, f"bench{self._calls:x}", "s" * 32, 0.5, _LIMITS, False))
        )
        packed = [command.packed() for command in commands]
        replies = self._valkey.fcall(f"penstock_{CALLS[name]}", 1, _ROOT, header, *packed)
        spent[name] = self._valkey.slowlog_get(1)[0]["duration"]
        return [msgspec.msgpack.decode(reply) for reply in cast("list[bytes]", replies[1:])]

    def _aof_bytes(self) -> int:
        return self._valkey.info("persistence")["aof_current_size"]
