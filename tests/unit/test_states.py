"""The tables of allowed state changes in Lua match those of penstock.states."""

import re
from pathlib import Path

from penstock.states import FLOW_MOVES, MOVES, REASONS, TERMINAL

LUA = Path(__file__).resolve().parents[2] / "lua"


def moves_in(file: str) -> dict[str, frozenset[str]]:
    """Read the table `local MOVES = {…}` of a Lua file."""
    found = re.search(r"^local MOVES = \{\n(.*?)^\}", (LUA / file).read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{file} has no table of moves"
    return {
        state: frozenset(re.findall(r"(\w+) = true", targets))
        for state, targets in re.findall(r"(\w+) = \{([^}]*)\}", found[1])
    }


def test_executions_move_as_the_contract_says() -> None:
    assert moves_in("execution/states.lua") == MOVES


def test_flows_move_as_the_contract_says() -> None:
    assert moves_in("flow/flows.lua") == FLOW_MOVES


def test_terminal_states_are_the_same() -> None:
    found = re.search(
        r"^Executions\.TERMINAL = \{(.*)\}", (LUA / "execution/record.lua").read_text(), re.MULTILINE
    )
    assert found and set(re.findall(r"(\w+) = true", found[1])) == TERMINAL


def test_only_transition_changes_a_state() -> None:
    """One file changes an execution's state; another one sets the first state when it creates the record."""
    written = {
        f"{path.relative_to(LUA)}: {line.strip()}"
        for path in LUA.rglob("*.lua")
        for line in path.read_text().splitlines()
        if re.match(r"\s*(x\.\w+, )*x\.state(, x\.\w+)* =[^=]", line)
    }
    allowed = {
        "execution/states.lua",
        "execution/life.lua",
        "execution/form.lua",
    }  # which takes a record apart
    assert {line.partition(":")[0] for line in written} <= allowed, written
    assert sum(line.startswith("execution/states.lua") for line in written) == 1, written


def test_reasons_belong_to_states() -> None:
    assert set(REASONS) <= set(MOVES) - TERMINAL
