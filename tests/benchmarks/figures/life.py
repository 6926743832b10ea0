"""The whole life of no-ops: created in batches, queued, drained by one worker process; rates and costs."""

import time
from typing import Final

from benchmarks.plan import BATCH, CONCURRENCY, PRODUCERS, Plan
from benchmarks.systems import House, System, running, wait_for

_COMPLETED: Final = "penstock:{0}:s:default:completed"


def measure(system: System, plan: Plan) -> dict[str, float]:
    """Measure the rates of a system; for Penstock also CPU per process, Valkey's time per command, and memory."""
    count = max(BATCH, system.executions // plan.divide // BATCH * BATCH)
    with running(system, plan.durability) as house:
        return _ours(house, count) if system.services else _peer(house, count)


def _peer(house: House, count: int) -> dict[str, float]:
    figures = {"create": _create(house, count)}
    with house.program("work", concurrency=CONCURRENCY, count=count) as worker:
        first = worker.read(60)["first"]
        figures["drain"] = count / (worker.read(240)["last"] - first)
    return figures


def _ours(house: House, count: int) -> dict[str, float]:
    valkey = house.valkey
    _create(house, BATCH * 10)  # warm-up: connections, scripts, first branches
    _drain(house, BATCH * 10, BATCH * 10)
    house.settle()
    memory = valkey.info("memory")["used_memory"]
    valkey.config_resetstat()
    cpu = house.cpu()

    figures = {"create": _create(house, count)}
    house.settle()
    created = house.cpu()
    figures["memory"] = (valkey.info("memory")["used_memory"] - memory) / count / 1024
    rate, worker = _drain(house, count, count + BATCH * 10)
    figures["drain"] = rate
    done = house.cpu()
    for name in done:
        figures[f"cpu_create.{name}"] = (created[name] - cpu[name]) / count * 1e6
        figures[f"cpu_run.{name}"] = (done[name] - created[name]) / count * 1e6
    figures["cpu_run.worker"] = worker / count * 1e6
    figures["valkey_process"] = (done["valkey-server"] - cpu["valkey-server"]) / count * 1e6
    return figures | _commands(house, count)


def _create(house: House, count: int) -> float:
    answer = house.ask("create", count=count, batch=BATCH, producers=PRODUCERS)
    return count / answer["seconds"]


def _drain(house: House, count: int, completed: int) -> tuple[float, float]:
    """Return the executions per second, from the first handler's start until all are completed in Valkey, and
    the worker's CPU seconds.
    """
    valkey = house.valkey
    with house.program("work", concurrency=CONCURRENCY, count=count) as worker:
        first = worker.read(60)["first"]
        house.pids["worker"] = worker.pid
        began = house.cpu()["worker"]
        worker.read(240)
        wait_for(lambda: valkey.zcard(_COMPLETED) >= completed, "the last outcomes", 60, every=0.002)
        ended = time.monotonic()
        house.settle()
        used = house.cpu()["worker"] - began
        del house.pids["worker"]
    return count / (ended - first), used


def _commands(house: House, count: int) -> dict[str, float]:
    """Return Valkey's microseconds per execution, for the function calls and for each command inside them."""
    stats = house.valkey.info("commandstats")
    figures = {
        f"valkey_command.{name.removeprefix('cmdstat_')}": one["usec"] / count for name, one in stats.items()
    }
    figures["valkey_calls"] = figures["valkey_command.fcall"]
    figures["valkey_fcalls"] = stats["cmdstat_fcall"]["calls"] / count
    return figures
