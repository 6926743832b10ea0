"""The key that signs waitpoint tokens: it comes from the environment or a file, and is never shown."""

from pathlib import Path

import pytest

from penstock.runtime.settings import Settings, SettingsError

KEY = "k" * 32


def test_from_the_environment_or_a_file(tmp_path: Path) -> None:
    assert Settings.from_env({"PENSTOCK_TOKEN_KEY": KEY}).signing_key() == KEY.encode()
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    assert Settings.from_env({"PENSTOCK_TOKEN_KEY_FILE": str(file)}).signing_key() == KEY.encode()


def test_only_dev_mode_does_without() -> None:
    assert Settings.from_env({"PENSTOCK_DEV": "true"}).signing_key() is None
    with pytest.raises(SettingsError, match="PENSTOCK_TOKEN_KEY is not set"):
        Settings().signing_key()


@pytest.mark.parametrize("dev", ["true", "false"])
def test_a_short_or_unreadable_key_is_refused(tmp_path: Path, dev: str) -> None:
    for wrong in (
        {"PENSTOCK_TOKEN_KEY": KEY[1:]},
        {"PENSTOCK_TOKEN_KEY_FILE": str(tmp_path / "nothing")},
        {"PENSTOCK_TOKEN_KEY_FILE": str(tmp_path)},
    ):
        with pytest.raises(SettingsError, match=next(iter(wrong))) as refused:
            Settings.from_env({**wrong, "PENSTOCK_DEV": dev}).signing_key()
        assert KEY[1:] not in str(refused.value)


def test_it_is_never_shown() -> None:
    settings = Settings(token_key=KEY)
    assert settings.shown()["token_key"] == "***"
    assert KEY not in repr(settings)
