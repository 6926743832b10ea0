"""The AsyncAPI document: valid by AsyncAPI's own parser, and whole."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

import commands
from node import node_folder
from penstock import subjects
from penstock.asyncapi import TOPICS, document
from penstock.bus.streams import definitions
from penstock.messages.events import EVENTS
from penstock.runtime.wakes import AUDIENCE
from penstock.verbs import VERBS

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return json.loads(document("penstock"))


async def test_the_parser_of_asyncapi_takes_it() -> None:
    folder = await node_folder(Path(__file__).parent, "@asyncapi/parser@3")
    node = await asyncio.create_subprocess_exec(
        *("node", "asyncapi.mjs"), cwd=folder, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await node.communicate(document("penstock"))
    parsed = json.loads(out)
    assert parsed["wrong"] == [] and parsed["operations"] > len(VERBS)


async def test_the_command_prints_it_without_a_server() -> None:
    said = await commands.penstock("asyncapi", "--root", "mine")
    assert said.out.strip().encode() == document("mine")


def test_every_verb_is_an_operation_with_a_reply(described: dict[str, Any]) -> None:
    for verb in VERBS.values():
        operation = described["operations"][verb.endpoint]
        channel = described["channels"][verb.endpoint]
        assert channel["address"] == verb.subject("penstock") and operation["action"] == "receive"
        assert operation["tags"] == [{"name": verb.service}]
        assert described["channels"][f"{verb.endpoint}_reply"]["messages"].keys() == {"reply", "error"}


@pytest.mark.parametrize(
    "subject",
    [
        subjects.worker_subject("penstock", "w"),
        subjects.frame_subject("penstock", "x"),
        subjects.signal_subject("penstock", "w", "n"),
        subjects.observation_subject("penstock", "f"),
        subjects.event_subject("penstock", "t"),
        "penstock.audit.n.e.created.i",
        "penstock.dead.t",
        "penstock.hint.ready",
        "penstock.hint.alive.scheduler",
    ],
)
def test_every_subject_is_in_it(described: dict[str, Any], subject: str) -> None:
    addresses = {channel["address"] for channel in described["channels"].values()}
    forms = [re.sub(r"\\\{\w+\\\}", "[^.]+", re.escape(address)) for address in addresses if address]
    assert any(re.fullmatch(form, subject) for form in forms)


def test_every_subject_of_a_stream_is_in_it(described: dict[str, Any]) -> None:
    addresses = [str(channel["address"]) for channel in described["channels"].values()]
    for stream in definitions("penstock"):
        for subject in stream.subjects or ():
            begins = subject.rstrip(">*.") + "."
            assert any(address.startswith(begins) for address in addresses), subject


def test_every_event_is_a_message(described: dict[str, Any]) -> None:
    messages = described["channels"]["audit"]["messages"]
    assert messages.keys() == {f"{entity}_{event}" for entity, event in EVENTS}


def test_every_event_is_emitted() -> None:
    sources = [*(REPOSITORY / "lua").rglob("*.lua"), *(REPOSITORY / "services").rglob("*.py")]
    emitted = "".join(path.read_text() for path in [*sources, REPOSITORY / "shared/penstock/audit/form.py"])
    assert [event for _, event in EVENTS if not re.search(f"""['"]{event}['"]""", emitted)] == []


def test_the_topics_of_hints_are_those_that_services_hear() -> None:
    assert {*AUDIENCE, "due"} == set(TOPICS)
