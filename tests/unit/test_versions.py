"""Which servers are refused or warned about, by what they say of themselves."""

import pytest

from penstock import versions
from penstock.runtime.server_check import parse_info, unfit_valkey


@pytest.mark.parametrize(
    ("name", "version", "old", "holes"),
    [
        ("Valkey", "7.2.11", True, False),
        ("Valkey", "8.0.1", False, True),
        ("Valkey", "8.0.6", False, False),
        ("Valkey", "8.1.0", False, True),
        ("Valkey", "8.1.4", False, False),
        ("Valkey", "9.0.0", False, False),
        ("Redis", "6.2.20", True, True),
        ("Redis", "7.0.15", False, True),
        ("Redis", "7.2.11", False, False),
        ("Redis", "8.1.3", False, True),
        ("Redis", "8.4.0", False, False),
        ("nats-server", "2.11.9", True, None),
        ("nats-server", "2.12.0-RC.1", False, None),
    ],
)
def test_versions(name: str, version: str, old: bool, holes: bool | None) -> None:
    assert bool(versions.too_old(name, version)) is old
    if holes is not None and not (name == "Valkey" and old):
        assert ("CVE-2025-49844" in versions.known_holes(name, version)) is holes


def test_what_a_valkey_says_of_itself() -> None:
    lines = [
        "# Server",
        "redis_version:7.2.4",
        "valkey_version:8.1.4",
        "",
        "cluster_enabled:0",
        "role:master",
        "",
    ]
    good = parse_info("\r\n".join(lines).encode())
    assert good["role"] == "master" and versions.of(good) == ("Valkey", "8.1.4")
    assert unfit_valkey(good) is None
    assert "8.0 or newer" in str(unfit_valkey({**good, "valkey_version": "7.2.11"}))
    assert "redis+cluster://" in str(unfit_valkey({**good, "cluster_enabled": "1"}))
    replica = {**good, "role": "slave", "master_host": "h", "master_port": "6379"}
    assert str(unfit_valkey(replica)).endswith("name its primary, h:6379")
