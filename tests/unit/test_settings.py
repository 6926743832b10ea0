"""Settings: they come from the environment, errors name the variable, and secrets are never shown."""

import io
import json
import logging
import pprint

import pytest

from penstock.runtime import Settings, SettingsError
from penstock.runtime.logging import configure, logger
from penstock.runtime.settings import FIELDS, help_text, markdown_table, misspelled, redact


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
        "PENSTOCK_ROOT": "acme",
        "PENSTOCK_PARTITIONS": "16",
        "PENSTOCK_MAX_PAYLOAD_BYTES": "2048",
        "PENSTOCK_IDEMPOTENCY_TTL_MS": "60000",
        "PENSTOCK_GRANT_TTL_MS": "1000",
        "PENSTOCK_RETENTION_MS": "5",
        "PENSTOCK_EVENT_TTL_MS": "60000",
        "PENSTOCK_TOKEN_KEY": "k" * 40,
        "PENSTOCK_TOKEN_KEY_FILE": "key",
        "PENSTOCK_PROGRESS_EVENTS_MS": "250",
        "PENSTOCK_STREAM_REPLICAS": "3",
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


def test_misspelled_variables_are_noticed() -> None:
    others = {"PENSTOCK_READY_FILE": "x", "PENSTOCK_SERVICE_HOST": "set by Kubernetes"}
    found = misspelled({"PENSTOCK_PARTITION": "4", **others})
    assert found == ["PENSTOCK_PARTITION is no setting; did you mean PENSTOCK_PARTITIONS?"]


def test_logs_are_json_lines_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure("scheduler", Settings(instance="one"))
        logger("scheduler", "one").info("connected", url="nats://me:hunter2@a:4222", n=3, name="kept")
        logging.getLogger("penstock.bus").warning("gone from %s", "nats://me:hunter2@b:4222")
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
    assert "ValueError: bad" in third["exception"]
    assert "hunter2" not in stream.getvalue()
    for line in lines:
        assert (line["service"], line["instance"]) == ("scheduler", "one")
        assert line["timestamp"].endswith("Z")
