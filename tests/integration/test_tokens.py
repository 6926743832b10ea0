"""Waitpoint tokens, and the ring of secrets in a real Valkey."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from msgspec.structs import replace

from penstock.errors import PenstockError
from penstock_signal_router.tokens import Facts, Key, Ring, Token, Tokens
from state_machine import StateMachine

FACTS = Facts("0-0192e4a0-0000-7000-8000-000000000001", "0-0192e4a0-0000-7000-8000-000000000000", "k", 1000)


@pytest.fixture
async def machine(valkey_url: str) -> AsyncIterator[StateMachine]:
    async with StateMachine.open(valkey_url) as machine:
        yield machine


def refusal(ring: Ring, text: str, facts: Facts | None = FACTS, now: float = 0) -> str | None:
    token = Token.parse(text)
    assert token is not None
    return ring.refusal(token, facts, now)


def test_a_token_is_true_for_its_own_waitpoint_only() -> None:
    ring = Ring.new()
    token = ring.mint(FACTS)
    key_id, waitpoint_id, mac = token.split(".")
    assert (key_id, waitpoint_id, len(mac)) == (ring.active, FACTS.waitpoint_id, 43)
    assert refusal(ring, token) is None
    assert ring.mint(FACTS) == token  # so a repeated request can get the same reply
    for other in (replace(FACTS, key="other"), replace(FACTS, created_at=1001), None):
        assert refusal(ring, token, other) == "wrong"
    assert refusal(ring, f"{key_id}.{waitpoint_id}.{'A' * 43}") == "wrong"
    assert refusal(ring, f"00000000.{waitpoint_id}.{mac}") == "wrong"
    assert refusal(Ring.new(), token) == "wrong"


def test_a_true_token_of_a_past_key_has_expired() -> None:
    ring = Ring.new()
    token = ring.mint(FACTS)
    ring.keys["00000001"] = Key(b"new")
    past = ring.active
    ring.keys[past].expires_at = 500
    ring.active = "00000001"
    assert refusal(ring, token, now=499) is None
    assert refusal(ring, token, now=500) == "expired"
    forged = f"{past}.{FACTS.waitpoint_id}.{'A' * 43}"
    assert refusal(ring, forged, now=500) == "wrong"  # a forger must not learn that the key has expired


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "a.b.c",
        "..",
        f"0123abcd.{FACTS.waitpoint_id}.short",
        f"0123abcd.{FACTS.waitpoint_id}.{'ä' * 43}",
    ],
)
def test_malformed(text: str) -> None:
    assert Token.parse(text) is None
    assert Token.parse(Ring.new().mint(FACTS) + "\n") is None


def test_secrets_do_not_show() -> None:
    ring = Ring(active="a", keys={"a": Key(b"hush")})
    assert "hush" not in repr(ring)


async def test_all_routers_share_the_ring_that_the_first_one_made(machine: StateMachine) -> None:
    service = machine.stores["signal-router"].machine
    rings = await asyncio.gather(*(Tokens(service, lambda: 0).ring() for _ in range(5)))
    assert len({ring.mint(FACTS) for ring in rings}) == 1


async def test_an_unknown_key_is_looked_for_once_in_a_while(
    machine: StateMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = machine.stores["signal-router"].machine
    tokens = Tokens(service, lambda: 0)
    old = await tokens.ring()
    rotated = Ring(active="00000001", keys={**old.keys, "00000001": Key(b"new")})
    await service.store.execute("SET", f"{machine.root}:{{0}}:secrets", msgspec.json.encode(rotated))
    assert "00000001" not in (await tokens.ring(["00000001"])).keys  # not read again, as it was read just now
    monkeypatch.setattr("penstock_signal_router.tokens._REREAD_S", 0.0)
    assert (await tokens.ring(old.keys)).active == old.active
    assert (await tokens.ring(["00000001"])).active == "00000001"


async def test_secrets_that_are_derived_stand_nowhere_in_valkey(machine: StateMachine) -> None:
    service = machine.stores["signal-router"].machine
    mine, same, other = (Tokens(service, lambda: 0, master) for master in (b"m" * 32, b"m" * 32, b"o" * 32))
    ring = await mine.ring()
    assert (await same.ring()).mint(FACTS) == ring.mint(FACTS) != (await other.ring()).mint(FACTS)
    key_id, past, _ = await mine.rotate(1000)
    assert past == ring.active
    same.forget()  # as the hint about a new ring does
    assert (await same.ring()).active == key_id
    kept = await service.store.execute("GET", f"{machine.root}:{{0}}:secrets")
    assert all(key["secret"] == "" for key in msgspec.json.decode(kept)["keys"].values())
    with pytest.raises(PenstockError, match="PENSTOCK_TOKEN_KEY"):
        await Tokens(service, lambda: 0).ring()
