"""The floor: how many minimal transitions (floor.lua) Valkey itself can do, with one or many in a call.

All commands are packed before the clock starts, and 16 calls are in flight, so that only Valkey is timed.
"""

import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import hiredis
import msgspec
import redis

import servers
from benchmarks.plan import Plan

PER_CALL: Final = (1, 32, 128)
WINDOW: Final = 16
_RECORDS: Final = 2048
_ROOT: Final = "bench:{0}"
_RECORD: Final = {
    "state": "ready",
    "seq": 1,
    "kind": "noop",
    "lane": "default",
    "priority": 0,
    "created_at": 1_700_000_000_000,
    "updated_at": 1_700_000_000_000,
    "attempt_index": 1,
    "max_attempts": 3,
    "lease_id": "0123456789abcdef",
    "lease_epoch": 1,
    "worker_id": "worker",
}
_pack = msgspec.msgpack.Encoder().encode


def measure(plan: Plan) -> dict[str, float]:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        server = servers.ValkeyServer(Path(name), durability=plan.durability)
        server.start()
        try:
            valkey = redis.Redis(port=server.port, protocol=2)
            valkey.function_load((Path(__file__).with_suffix(".lua")).read_text())
            for index in range(_RECORDS):
                valkey.set(f"{_ROOT}:x:{index}", _pack(_RECORD))
            for size in PER_CALL:
                valkey.config_resetstat()
                calls = list(_calls(plan.floor_calls * WINDOW * (4 if size == 1 else 1) // 4, size))
                seconds = _drive(server.port, calls)
                usec = valkey.info("commandstats")["cmdstat_fcall"]["usec"]
                figures[f"floor_{size}"] = len(calls) * size / seconds
                figures[f"floor_us_{size}"] = usec / len(calls) / size
        finally:
            server.kill()
    return figures


def _calls(count: int, size: int) -> Iterator[bytes]:
    for call in range(count):
        commands = [_pack([str((call * size + i) % _RECORDS), "running"]) for i in range(size)]
        yield hiredis.pack_command(("FCALL", "bench_move", 1, _ROOT, *commands))


def _drive(port: int, calls: list[bytes]) -> float:
    """Send all calls. Return the seconds until the last reply."""
    reader: Any = hiredis.Reader()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = time.perf_counter()
        sent = answered = 0
        while answered < len(calls):
            ready = calls[sent : answered + WINDOW]
            if ready:
                connection.sendall(b"".join(ready))
                sent += len(ready)
            reader.feed(connection.recv(65536))
            while (reply := reader.gets()) is not False:
                if isinstance(reply, Exception):
                    raise reply
                answered += 1
        return time.perf_counter() - started
