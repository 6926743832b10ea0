"""The structure of lua/: each file names its needs, files do not depend in a cycle, keys are built in one file."""

import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

LUA = Path(__file__).resolve().parents[2] / "lua"
NAMES = (LUA / "manifest").read_text().split()
FOLDERS = (
    "core",
    "queue",
    "lane",
    "worker",
    "limit",
    "execution",
    "flow",
    "lease",
    "waitpoint",
    "journal",
    "schedule",
)
"""The layers, lowest first: a file may need files of its own folder and of earlier folders only."""


@cache
def code(name: str) -> str:
    """Return the code of a file without comments."""
    return re.sub(r"--.*", "", (LUA / name).read_text())


@cache
def rooms() -> set[str]:
    lines = re.findall(r"^local ([A-Z][^=\n]*)=", code("core/prelude.lua"), re.MULTILINE)
    return {room.strip() for line in lines for room in line.split(",")} - {"Ops"}


@cache
def filled(name: str) -> dict[str, str]:
    """Return the members that a file defines in rooms (modules shared as Lua tables): {Room.member: Room}."""
    functions = re.findall(r"^function ((\w+)\.\w+)\(", code(name), re.MULTILINE)
    tables = re.findall(r"^((\w+)\.\w+) = ", code(name), re.MULTILINE)
    return {member: room for member, room in functions + tables if room in rooms()}


def used(name: str) -> set[str]:
    return {member for member, room in re.findall(r"\b(([A-Z]\w+)\.\w+)", code(name)) if room in rooms()}


def files_needed(name: str) -> set[str]:
    """Return the other files that define the members which this file uses."""
    owners = {member: file for file in NAMES for member in filled(file)}
    return {owners[member] for member in used(name) - filled(name).keys() if member in owners} - {name}


def folder(name: str) -> str:
    return name.partition("/")[0]


def test_the_manifest_names_every_file_once() -> None:
    assert sorted(NAMES) == sorted(str(path.relative_to(LUA)) for path in LUA.rglob("*.lua"))


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_file_says_at_its_top_what_it_needs(name: str) -> None:
    own = set(filled(name).values())
    needs = sorted({member.partition(".")[0] for member in used(name)} - own)
    header = "".join(_header(name))
    assert f"-- Needs: {', '.join(needs) or 'nothing'}.\n" in header


def _header(name: str) -> Iterator[str]:
    for line in (LUA / name).read_text().splitlines(keepends=True):
        if not line.startswith("--"):
            return
        yield line


def test_no_file_calls_in_a_ring() -> None:
    tuple(TopologicalSorter({name: files_needed(name) for name in NAMES}).static_order())


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_room_needs_only_those_below_it(name: str) -> None:
    if folder(name) not in FOLDERS:
        return  # reactions and ops may need every folder
    below = FOLDERS[: FOLDERS.index(folder(name)) + 1]
    assert {each for each in files_needed(name) if folder(each) not in below} == set()


def test_only_reactions_and_rooms_above_know_what_a_move_means() -> None:
    known = {folder(each) for each in files_needed("reactions.lua")}
    assert known == {"execution", "flow", "lease", "limit", "waitpoint", "journal"}


@pytest.mark.parametrize("name", NAMES[1:])
def test_keys_are_built_in_one_file(name: str) -> None:
    assert name in ("core/keys.lua", "core/call.lua") or "Call.root" not in code(name).replace(
        "Call.root =", ""
    )


def test_the_ops_of_a_service_are_served_when_all_are_there() -> None:
    for name in NAMES:
        if "Dispatch.serve(" in code(name) and name != "core/dispatch.lua":
            last = max(NAMES.index(each) for each in NAMES if Path(each).parent == Path(name).parent)
            assert NAMES[last] == name
