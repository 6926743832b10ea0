"""Installs the peers: the Python peers in a separate environment, and BullMQ if Node is available.

The environment is separate because peers pin other versions of Penstock's dependencies (arq wants redis < 6).
Everything is under `.venv/bench`, so it is never committed, and removing `.venv` removes it.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
HOME: Final = REPOSITORY / ".venv" / "bench"
PYTHON: Final = HOME / "bin" / "python"
NODE_HOME: Final = HOME / "node"
NODE_PACKAGES: Final = ["bullmq@6", "ioredis@6"]


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def python_peers() -> bool:
    """Install pyproject's extra `bench`. Return whether it is installed."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wanted: list[str] = project["project"]["optional-dependencies"]["bench"]
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return _once(
        HOME / "python-peers",
        wanted,
        [[sys.executable, "-m", "venv", HOME], [*pip, *wanted]],
        f"installing {', '.join(wanted)} into {HOME.relative_to(REPOSITORY)}",
    )


def node_peers() -> bool:
    """Install BullMQ. Return whether it is installed."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        say("no Node here: BullMQ is left out")
        return False
    NODE_HOME.mkdir(parents=True, exist_ok=True)
    quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
    return _once(
        HOME / "node-peers",
        NODE_PACKAGES,
        [[npm, "install", "--prefix", NODE_HOME, *quiet, *NODE_PACKAGES]],
        f"installing {', '.join(NODE_PACKAGES)} into {NODE_HOME.relative_to(REPOSITORY)}",
    )


def versions(packages: list[str]) -> dict[str, str]:
    """Return the installed versions of the Python peers and of BullMQ."""
    found: dict[str, str] = {}
    if PYTHON.exists():
        code = "import json, sys, importlib.metadata as m; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
        told = subprocess.run([PYTHON, "-c", code, *packages], capture_output=True, text=True)
        found |= json.loads(told.stdout) if told.returncode == 0 else {}
    bullmq = NODE_HOME / "node_modules" / "bullmq" / "package.json"
    if bullmq.exists():
        found["bullmq"] = json.loads(bullmq.read_text())["version"]
    return found


def _once(stamp: Path, wanted: list[str], commands: list[list[object]], what: str) -> bool:
    """Run the commands, unless they already ran for the same `wanted`. If one fails, say so and return False."""
    fingerprint = hashlib.sha256(json.dumps([wanted, str(HOME)]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == fingerprint:
        return True
    say(what)
    for command in commands:
        if subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL).returncode:
            say("that failed: those peers are left out")
            return False
    stamp.write_text(fingerprint)
    return True
