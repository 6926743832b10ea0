"""Outside dev mode, a signal-router without a key to sign tokens does not start."""

import os
import subprocess
import sys

import pytest

from running_penstock import RunningPenstock


@pytest.mark.parametrize("key", [None, "short"])
def test_the_process_says_what_to_do(penstock: RunningPenstock, key: str | None) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    environ |= {
        "PENSTOCK_NATS_URL": penstock.settings.nats_url,
        "PENSTOCK_VALKEY_URL": penstock.settings.valkey_url,
        "PENSTOCK_ROOT": penstock.root,
        "PENSTOCK_PARTITIONS": str(penstock.settings.partitions),
    }
    if key is not None:
        environ["PENSTOCK_TOKEN_KEY"] = key
    ended = subprocess.run(
        [sys.executable, "-m", "penstock_signal_router"],
        env=environ,
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert ended.returncode == 1
    assert "PENSTOCK_TOKEN_KEY" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
