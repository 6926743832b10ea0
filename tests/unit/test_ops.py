"""The state machine's operations in Python (penstock.machine.ops) match those in Lua."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from penstock.machine.op import Op
from penstock.machine.ops import OPS
from penstock.store.caller import MOST

LUA = Path(__file__).parents[2] / "lua"
FENCE = {"execution_id", "attempt_index", "lease_id", "lease_epoch"}
COMMON = {"ping", "deployment", "hint_key", "next_due"}


# Whole-line comments right above a function, which ends on its first line or with an `end` at the margin.
_OP = re.compile(
    r"((?:^--.*\n)*)^function (?:ops|Ops\.\w+)\.(\w+)\((.*\bend\n|.*\n(?:.*\n)*?end\n)", re.MULTILINE
)
_ARGS = re.compile(r"args(?:, reply)?:(.*?)(?:\breply:|\berrors?\b.*?:|\bevents:|$)")


class LuaOp(NamedTuple):
    header: str
    body: str


def lua_ops() -> Iterator[tuple[tuple[str, str], LuaOp]]:
    for file in LUA.glob("ops/*/*.lua"):
        # Whole-line comments right above a function, which ends on its first line or with an `end` at the margin.
        for found in re.finditer(
            r"((?:^--.*\n)*)^function (?:ops|Ops\.\w+)\.(\w+)\((.*\bend\n|.*\n(?:.*\n)*?end\n)",
            file.read_text(),
            re.M,
        ):
            yield (file.parent.name, found[2]), LuaOp(found[1], found[3])


LUA_OPS = dict(lua_ops())
NAMED = [key for key in OPS if key[1] not in COMMON]


def fields(op: type[Op[Any]]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(op)}


def test_both_have_the_same_operations() -> None:
    assert set(NAMED) == set(LUA_OPS)


@pytest.mark.parametrize("key", NAMED, ids=lambda key: ".".join(key))
def test_lua_says_which_arguments_there_are(key: tuple[str, str]) -> None:
    said = _ARGS.search(LUA_OPS[key].header.replace("\n-- ", " "))
    names = set(re.findall(r"\w+", said[1])) if said else set[str]()
    wanted = fields(OPS[key])
    if "fence" in names:
        wanted -= FENCE
    assert wanted <= names, f"the comment on {key} does not name {wanted - names}"


@pytest.mark.parametrize("key", NAMED, ids=lambda key: ".".join(key))
def test_lua_reads_only_arguments_that_there_are(key: tuple[str, str]) -> None:
    read = set(re.findall(r"\ba\.(\w+)", LUA_OPS[key].body))
    assert read <= fields(OPS[key])


@pytest.mark.parametrize("op", dict.fromkeys(OPS.values()), ids=lambda op: op.__name__)
def test_what_is_left_off_means_nothing_in_lua(op: type[Op[Any]]) -> None:
    for field in msgspec.structs.fields(op):
        assert field.default in (msgspec.NODEFAULT, None) or field.default is False
        assert field.default_factory is msgspec.NODEFAULT
    assert 1 <= op.meta.weight <= MOST
