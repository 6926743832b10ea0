"""Publishing without our SDK: the programs of docs/publishing.md, unchanged."""

import asyncio
import os
import shutil
from typing import Any

import pytest

import publish
from node import node_folder
from running_penstock import RunningPenstock, fence


async def waiting(penstock: RunningPenstock) -> tuple[dict[str, Any], dict[str, Any]]:
    """Suspend an execution; return its task and the reply with its waitpoint."""
    await penstock.create()
    task = await penstock.begin()
    return task, await penstock.request("lease.suspend", fence(task) | {"condition": {"name": "approved"}})


async def by_python(penstock: RunningPenstock, *args: str) -> None:
    await publish.main(penstock.settings.nats_url, *args, root=penstock.root)


async def by_javascript(penstock: RunningPenstock, *args: str) -> None:
    folder = await node_folder()
    node = await asyncio.create_subprocess_exec(
        "node",
        str(folder / "publish.mjs"),
        penstock.settings.nats_url,
        *args,
        env={**os.environ, "PENSTOCK_ROOT": penstock.root},
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await node.communicate()
    assert node.returncode == 0, err.decode()


@pytest.fixture(params=["python", "javascript"])
def publisher(request: pytest.FixtureRequest) -> Any:
    if request.param == "javascript" and not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("there is no Node here")
    return by_python if request.param == "python" else by_javascript


async def test_a_signal_an_event_and_an_observation(penstock: RunningPenstock, publisher: Any) -> None:
    task, suspended = await waiting(penstock)
    for _ in range(2):
        await publisher(
            penstock, "signal", suspended["waitpoint_id"], "approved", suspended["token"], '{"by": "me"}'
        )
    await penstock.reaches(task["execution_id"], "ready")
    again = await penstock.begin()
    [signal] = (await penstock.request("signal.resumed_by", fence(again)))["items"]
    assert (signal["name"], signal["payload"]) == ("approved", {"by": "me"})

    body = {"controller_id": "c", "goal": "g", "owner": "o"}
    flow = await penstock.request("flow.create_mirrored", body)
    await publisher(penstock, "observation", flow["flow_id"], "17", "compile", "succeeded")
    steps = await penstock.until(
        lambda: penstock.request("flow.steps", {"flow_id": flow["flow_id"]}), lambda page: page["items"]
    )
    assert (steps["items"][0]["task"], steps["items"][0]["status"]) == ("compile", "succeeded")

    wait = {"kind": "external_event", "topic": "ci.build", "correlation_id": "42"}
    await penstock.request("flow.set_waiting", {"flow_id": flow["flow_id"], "wait": wait})
    await publisher(penstock, "event", "ci.build", "42", '{"ok": true}')
    found = await penstock.until(
        lambda: penstock.request("flow.get", {"flow_id": flow["flow_id"]}),
        lambda found: found["status"] == "running",
    )
    assert found["state"] == {"event": {"ok": True}}
