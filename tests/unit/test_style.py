"""`make lint` as tests: style, format, types, and allowed imports between packages."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "pyright", "lint-imports"])
def test_the_code_passes(command: str) -> None:
    tool, *arguments = command.split()
    told = subprocess.run([BIN / tool, *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
