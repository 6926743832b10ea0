"""A program that Penstock does not run: it byte-compiles the standard library, and reports each file.

It imports nothing of Penstock. One request creates a mirrored flow. After that, the program publishes each step
to a NATS subject, without waiting for a service. Any program that can use NATS can be followed like this.

    python -m census.mirror nats://localhost:4222
"""

import asyncio
import json
import os
import py_compile
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client

from census.analysis import stdlib_files, stdlib_root

LAST = "compile-all"  # the flow ends when this step ends


async def main(url: str, limit: int | None = None) -> None:
    root = stdlib_root()
    paths = stdlib_files(root)[:limit]
    connection = await nats.connect(url)
    flow_id = await create_flow(connection)
    print(json.dumps({"flow_id": flow_id, "steps": len(paths) + 1}), flush=True)
    observe = Observer(connection, flow_id)
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="census-pyc-") as folder:
        await observe(LAST, LAST, "running")
        for path in paths:
            await observe(path, "compile", "running")
            error = compile_file(root / path, Path(folder) / "compiled.pyc")
            status = "failed" if error else "succeeded"
            await observe(path, "compile", status, {"error": error} if error else None)
            ends[status] += 1
        await observe(LAST, LAST, "succeeded", dict(ends))
    print(json.dumps(ends), flush=True)
    await connection.close()


def compile_file(source: Path, target: Path) -> str | None:
    """Compile a file. Return the error's class name, or None. Some test files are broken on purpose."""
    try:
        py_compile.compile(str(source), cfile=str(target), doraise=True)
    except (py_compile.PyCompileError, UnicodeError) as error:
        return getattr(error, "exc_type_name", type(error).__name__)
    return None


async def create_flow(connection: Client) -> str:
    """Create a mirrored flow: this program runs it, and Penstock shows it. Return its id."""
    spec = {
        "controller_id": "compiler",
        "owner": "census",
        "namespace": "census",
        "goal": "byte-compile the standard library",
        "completion": "on_task",
        "completion_task": LAST,
    }
    reply = await connection.request(
        "penstock.v1.flow.create_mirrored", json.dumps(spec).encode(), timeout=10
    )
    answer = json.loads(reply.data)
    if "error" in answer:
        sys.exit(f"no flow to mirror into: {answer['error']['message']}")
    return answer["flow_id"]


class Observer:
    """Publishes observations of one flow. JetStream keeps them until they are applied."""

    def __init__(self, connection: Client, flow_id: str) -> None:
        self._jetstream = connection.jetstream()
        self._subject = f"penstock.observation.{flow_id}"

    async def __call__(self, run_id: str, task: str, status: str, result: Any = None) -> None:
        observation = {
            "run_id": run_id,
            "task": task,
            "status": status,
            "observed_at": time.time_ns() // 10**6,
        }
        if result is not None:
            observation["result"] = result
        # With this message id, an observation sent twice after a lost connection counts once.
        headers = {"Nats-Msg-Id": f"{self._subject}/{run_id}/{status}"}
        await self._jetstream.publish(self._subject, json.dumps(observation).encode(), headers=headers)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # hide the compiler's warnings about the files
    url = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PENSTOCK_NATS_URL", "nats://localhost:4222")
    asyncio.run(main(url, int(sys.argv[2]) if len(sys.argv) > 2 else None))
