"""Settings: they come from the environment, errors name the variable, and secrets are never shown."""

import io
import json
import logging
import pprint
from pathlib import Path

import pytest
from redis.asyncio.connection import parse_url

from penstock.bus.request_id import handled
from penstock.runtime import Settings, SettingsError
from penstock.runtime.addresses import login_of
from penstock.runtime.logging import configure, logger
from penstock.runtime.settings import FIELDS, help_text, markdown_table
from penstock.runtime.variables import unknown
from penstock.urls import redact


def test_everything_has_a_default() -> None:
    settings = Settings.from_env({})
    assert settings.root == "penstock"
    assert settings.partitions == 1
    assert settings.max_payload_bytes == 1024 * 1024
    assert settings.idempotency_ttl_ms == 24 * 60 * 60 * 1000
    assert settings.retention_ms == 7 * 24 * 60 * 60 * 1000
    assert settings.metrics_port == 0
    assert settings.dev is False
    assert settings.nats_creds is None
    assert Settings.from_env({}).instance != settings.instance


def test_every_field_comes_from_its_variable() -> None:
    given = {
        "PENSTOCK_NATS_URL": "nats://a:4222,nats://b:4222",
        "PENSTOCK_NATS_CREDS": "/run/secrets/nats.creds",
        "PENSTOCK_VALKEY_URL": "redis://valkey:6379/1",
        "PENSTOCK_VALKEY_PASSWORD_FILE": "/run/secrets/valkey",
        "PENSTOCK_ROOT": "acme",
        "PENSTOCK_PARTITIONS": "16",
        "PENSTOCK_MAX_PAYLOAD_BYTES": "2048",
        "PENSTOCK_IDEMPOTENCY_TTL_MS": "60000",
        "PENSTOCK_GRANT_TTL_MS": "1000",
        "PENSTOCK_RETENTION_MS": "5",
        "PENSTOCK_EVENT_TTL_MS": "60000",
        "PENSTOCK_TOKEN_KEY": "k" * 40,
        "PENSTOCK_TOKEN_KEY_FILE": "key",
        "PENSTOCK_JOURNAL_MAX_ENTRIES": "50",
        "PENSTOCK_JOURNAL_MAX_BYTES": "4096",
        "PENSTOCK_PROGRESS_EVENTS_MS": "250",
        "PENSTOCK_STREAM_REPLICAS": "3",
        "PENSTOCK_AUDIT_MAX_BYTES": str(2**40),
        "PENSTOCK_AUDIT_MAX_AGE_MS": "86400000",
        "PENSTOCK_DEAD_MAX_BYTES": str(2**20),
        "PENSTOCK_DEAD_MAX_AGE_MS": "120000",
        "PENSTOCK_EVENTS_MAX_AGE_MS": "3600000",
        "PENSTOCK_REPLY_PREFIXES": "_INBOX.,mine.",
        "PENSTOCK_METRICS_HOST": "10.0.0.1",
        "PENSTOCK_METRICS_PORT": "9100",
        "PENSTOCK_LOG_LEVEL": "debug",
        "PENSTOCK_LOG_FORMAT": "json",
        "PENSTOCK_DRAIN_TIMEOUT_MS": "0",
        "PENSTOCK_SWEEP_MS": "100",
        "PENSTOCK_DEV": "yes",
        "PENSTOCK_INSTANCE": "pod-7",
        "PENSTOCK_ACKNOWLEDGED": "replicas:2",
    }
    assert set(given) == {field.variable for field in FIELDS}
    settings = Settings.from_env(given)
    assert settings.partitions == 16
    assert settings.dev is True
    assert settings.log_level == "debug"
    assert {name: str(getattr(settings, name)) for name in ("root", "instance", "nats_creds")} == {
        "root": "acme",
        "instance": "pod-7",
        "nats_creds": "/run/secrets/nats.creds",
    }
    assert settings.limits() == {
        "max_payload_bytes": 2048,
        "idempotency_ttl_ms": 60000,
        "grant_ttl_ms": 1000,
        "progress_events_ms": 250,
        "event_ttl_ms": 60000,
        "journal_max_entries": 50,
        "journal_max_bytes": 4096,
        "retention_ms": 5,
    }


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PENSTOCK_PARTITIONS", "0"),
        ("PENSTOCK_PARTITIONS", "many"),
        ("PENSTOCK_PARTITIONS", "1.5"),
        ("PENSTOCK_METRICS_PORT", "70000"),
        ("PENSTOCK_LOG_LEVEL", "loud"),
        ("PENSTOCK_DEV", "perhaps"),
        ("PENSTOCK_ROOT", "a.b"),
        ("PENSTOCK_ROOT", "pen stock"),
        ("PENSTOCK_INSTANCE", "a>b"),
        ("PENSTOCK_VALKEY_URL", "valkey:6379"),
    ],
)
def test_a_wrong_value_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        Settings.from_env({variable: value})


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"PENSTOCK_PARTITIONS": "0", "PENSTOCK_SWEEP_MS": "x"})
    assert "PENSTOCK_PARTITIONS" in str(caught.value)
    assert "PENSTOCK_SWEEP_MS" in str(caught.value)


def test_an_empty_variable_is_not_set() -> None:
    settings = Settings.from_env({"PENSTOCK_PARTITIONS": " ", "PENSTOCK_NATS_CREDS": ""})
    assert settings.partitions == 1
    assert settings.nats_creds is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://localhost:4222", "nats://localhost:4222"),
        ("nats://me:hunter2@a:4222", "nats://***@a:4222"),
        ("nats://hunter2@a:4222", "nats://***@a:4222"),
        ("nats://me:hunter2@a:4222,nats://me:hunter2@b:4222", "nats://***@a:4222,nats://***@b:4222"),
        ("nats://a:1, tls://me:hunter2@b:2", "nats://a:1,tls://***@b:2"),
        ("redis://:hunter2@h:6379/0", "redis://***@h:6379/0"),
        ("redis://me:hunter2/@x@h:6379/0", "redis://***@h:6379/0"),
        ("redis://h:6379/0?password=hunter2", "redis://h:6379/0?***"),
        ("me:hunter2@h:4222", "***@h:4222"),
        ("nats://me:a://hunter2@h", "nats://***@h"),
    ],
)
def test_redact(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_secrets_are_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = {
        "PENSTOCK_NATS_URL": "nats://me:hunter2@a:4222",
        "PENSTOCK_VALKEY_URL": "redis://:hunter2@h:6379/0",
    }
    settings = Settings.from_env(urls)
    assert settings.nats_url == "nats://me:hunter2@a:4222"
    for text in (repr(settings), str(settings), pprint.pformat(settings), str(settings.shown())):
        assert "hunter2" not in text
        assert "***@a:4222" in text
    assert "hunter2" not in str(list(settings.__rich_repr__()))
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"PENSTOCK_VALKEY_URL": "hunter2@valkey:6379"})
    assert "hunter2" not in str(caught.value)
    for name, value in urls.items():
        monkeypatch.setenv(name, value)
    assert "hunter2" not in help_text()


def test_help_and_docs_name_every_setting() -> None:
    for field in FIELDS:
        assert field.description
        assert field.variable in help_text()
        assert f"`{field.variable}`" in markdown_table()


def test_unknown_variables_are_refused_but_not_those_of_others() -> None:
    others = {
        "PENSTOCK_READY_FILE": "x",
        "PENSTOCK_SERVICE_HOST": "10.0.0.1",  # these are set by Kubernetes for a Service of this name
        "PENSTOCK_SERVICE_PORT_CLIENT": "4222",
        "PENSTOCK_NATS_PORT": "tcp://10.0.0.1:4222",
        "PENSTOCK_PORT_4222_TCP_ADDR": "10.0.0.1",
        "PENSTOCK_GATEWAY_RATE": "5",  # the gateway's, which refuses its own unknown ones
        "PENSTOCKER": "x",
        "PATH": "x",
    }
    assert unknown(others, FIELDS) == []
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"PENSTOCK_PARTITION": "hunter2", "PENSTOCK_COLOUR": "hunter2", **others})
    assert str(caught.value).splitlines() == [
        "PENSTOCK_COLOUR is no setting: unset it; --help of a service names all settings",
        "PENSTOCK_PARTITION is no setting: did you mean PENSTOCK_PARTITIONS?",
    ]
    with pytest.raises(SettingsError, match="did you mean PENSTOCK_METRICS_PORT"):
        Settings.from_env({"PENSTOCK_METRIC_PORT": "9100"})


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("PENSTOCK_NATS_URL", "nats://me:hunter2/@h:4222"),
        ("PENSTOCK_NATS_URL", "nats://a:4222,nats://h:hunter2"),
        ("PENSTOCK_NATS_URL", "http://hunter2@h:4222"),
        ("PENSTOCK_NATS_URL", "nats://"),
        ("PENSTOCK_VALKEY_URL", "redis://:hunter2/x@h:6379/0"),
        ("PENSTOCK_VALKEY_URL", "redis://:hunter2#x@h:6379/0"),
        ("PENSTOCK_VALKEY_URL", "redis://h:70000"),
        ("PENSTOCK_VALKEY_URL", "redis://h:6379/hunter2"),
    ],
)
def test_a_wrong_url_is_refused_without_a_part_of_it(variable: str, url: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable}: must read .*%2F") as caught:
        Settings.from_env({variable: url})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("PENSTOCK_NATS_URL", "h:4222,tls://me:p%40ss@h2, nats://token@[::1]:4222"),
        ("PENSTOCK_VALKEY_URL", "rediss://me:p%2Fss@h:6379/12?ssl_cert_reqs=none"),
        ("PENSTOCK_VALKEY_URL", "valkey://[::1]"),
        ("PENSTOCK_VALKEY_URL", "unix:///run/valkey.sock?db=1"),
    ],
)
def test_right_urls_are_taken(variable: str, url: str) -> None:
    Settings.from_env({variable: url})


def test_valkeys_password_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/word\n")
    assert login_of("redis://h:6379/1", None) == "redis://h:6379/1"
    for url, login in (
        ("redis://h:6379/1", "redis://:p%40ss%2Fword@h:6379/1"),
        ("rediss://me@h", "rediss://me:p%40ss%2Fword@h"),
        ("unix:///run/v.sock", "unix://:p%40ss%2Fword@/run/v.sock"),
    ):
        assert login_of(url, str(file)) == login
        assert parse_url(login)["password"] == "p@ss/word"
    with pytest.raises(SettingsError, match="not both"):
        login_of("redis://:hunter2@h", str(file))
    for bad, why in ((tmp_path / "none", "cannot be read"), (tmp_path / "empty", "is empty")):
        (tmp_path / "empty").touch()
        with pytest.raises(SettingsError, match=f"PENSTOCK_VALKEY_PASSWORD_FILE: .*{why}"):
            login_of("redis://h", str(bad))


def test_logs_are_json_lines_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure("scheduler", Settings(instance="one"))
        logger("scheduler", "one").info("connected", url="nats://me:hunter2@a:4222", n=3, name="kept")
        request = handled.set([("_INBOX.x.1", {"Penstock-Request-Id": "order-17"})])
        logging.getLogger("penstock.bus").warning("gone from %s", "nats://me:hunter2@b:4222")
        handled.reset(request)
        try:
            token = "".join(["hunter", "2"])  # a traceback with local variables would show it
            raise ValueError("bad" if token else "")
        except ValueError:
            logger("scheduler", "one").exception("failed")
    finally:
        root.handlers[:], root.level = handlers, level
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 3
    first, second, third = lines
    assert first["event"] == "connected" and first["url"] == "nats://***@a:4222" and first["n"] == 3
    assert second["event"] == "gone from nats://***@b:4222" and second["level"] == "warning"
    assert second["request_id"] == "order-17" and "request_id" not in first
    assert "ValueError: bad" in third["exception"]
    assert "hunter2" not in stream.getvalue()
    for line in lines:
        assert (line["service"], line["instance"]) == ("scheduler", "one")
        assert line["timestamp"].endswith("Z")
