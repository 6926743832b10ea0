"""The gateway's parts that need no server: rates, settings, the tokens file, the description."""

from pathlib import Path

import pytest

from penstock.errors import PenstockError
from penstock_gateway.rates import MOST, Rates
from penstock_gateway.settings import Settings, SettingsError
from penstock_gateway.tokens import Tokens, TokensError, add, digest_of

DIGEST = digest_of("x")


def test_a_bucket_lets_twice_the_rate_through_and_then_the_rate() -> None:
    now = 0.0
    rates = Rates(5.0, lambda: now)

    def passed() -> int:
        count = 0
        while True:
            try:
                rates.take("ada")
            except PenstockError as error:
                assert error.code == "rate_limit_exceeded" and 0 < (error.retry_after_ms or 0) <= 201
                return count
            count += 1

    assert passed() == 10
    rates.take("bob")  # a bucket of his own
    now = 1.0
    assert passed() == 5
    now = 1.25
    assert passed() == 1
    now = 100.0
    assert passed() == 10


def test_a_slow_rate_lets_one_through() -> None:
    rates = Rates(0.1, lambda: 0.0)
    rates.take("ada")
    with pytest.raises(PenstockError) as refused:
        rates.take("ada")
    assert refused.value.retry_after_ms == 10_001


def test_made_up_keys_take_no_more_than_their_share_of_memory() -> None:
    rates = Rates(1.0, lambda: 0.0)
    for number in range(MOST + 10):
        rates.take(str(number))
    assert len(rates._buckets) == MOST


def test_a_wrong_setting_names_its_variable() -> None:
    settings = Settings.from_env(
        {"PENSTOCK_GATEWAY_PORT": "0", "PENSTOCK_ROOT": "shop", "PENSTOCK_GATEWAY_HOST": ""}
    )
    assert (settings.port, settings.root, settings.host) == (0, "shop", "127.0.0.1")
    for name, value in (
        ("PENSTOCK_GATEWAY_PORT", "http"),
        ("PENSTOCK_GATEWAY_PORT", "65536"),
        ("PENSTOCK_GATEWAY_RATE", "0"),
        ("PENSTOCK_ROOT", "a.b"),
        ("PENSTOCK_GATEWAY_COLOUR", "red"),
    ):
        with pytest.raises(SettingsError, match=name):
            Settings.from_env({name: value})
    # A Service of Kubernetes with the name penstock-gateway sets these in every pod.
    links = {"PENSTOCK_GATEWAY_PORT": "tcp://10.0.0.1:8080", "PENSTOCK_GATEWAY_SERVICE_HOST": "10.0.0.1"}
    assert Settings.from_env(links).port == 8080


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("abc viewer ada", "SHA-256"),
        (f"{DIGEST} viewer", "SHA-256"),
        (f"{DIGEST} boss ada", "one of worker, submitter"),
        (f"{DIGEST} publisher ada", "one of worker, submitter"),
        (f"{DIGEST} viewer a.b", "A-Z a-z 0-9"),
        (f"{DIGEST} viewer ada\n{DIGEST} worker ada", "line 2: the name 'ada' stands there twice"),
        ("\xff", "no text"),
    ],
)
def test_a_wrong_tokens_file_is_refused_and_what_was_read_before_holds(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "tokens"
    token = add(path, "bob", "viewer")
    tokens = Tokens(path)
    tokens.load()
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TokensError, match=says) as refused:
        tokens.load_if_changed()
    assert DIGEST not in str(refused.value)
    assert not tokens.load_if_changed()  # the same mistake is reported once
    bob = tokens.find(token)
    assert bob is not None and bob.name == "bob"


def test_a_tokens_file_open_to_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    add(path, "bob", "viewer")
    tokens = Tokens(path)
    for mode, fit in ((0o600, True), (0o640, True), (0o660, False), (0o604, False), (0o602, False)):
        path.chmod(mode)
        if fit:
            tokens.load()
        else:
            with pytest.raises(TokensError, match="chmod 600"):
                tokens.load()


def test_tokens_are_added_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    first = add(path, "bob", "viewer")
    path.write_text("# people\n" + path.read_text().rstrip())
    second = add(path, "ada", "operator")
    tokens = Tokens(path)
    tokens.load()
    assert [bearer.role for each in (first, second) if (bearer := tokens.find(each))] == [
        "viewer",
        "operator",
    ]
    assert tokens.find(first + "x") is None and first not in path.read_text()
    for name, role in (("ada", "viewer"), ("eve", "boss"), ("a b", "viewer")):
        with pytest.raises(TokensError):
            add(path, name, role)
    assert path.read_text().count("\n") == 3
    with pytest.raises(TokensError, match="token NAME ROLE"):
        Tokens(tmp_path / "none").load()
