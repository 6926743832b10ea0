"""A folder with the JavaScript examples and the npm packages that they need."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PACKAGES = ("@nats-io/transport-node", "@nats-io/jetstream")
_made: list[Path] = []


async def node_folder() -> Path:
    """Return the folder, which is made once. Skip the test if there is no Node or npm cannot install the packages."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("there is no Node here")
    if not _made:
        folder = Path(tempfile.mkdtemp(prefix="penstock-js-"))
        for program in EXAMPLES.glob("*.mjs"):
            shutil.copy(program, folder)
        npm = await asyncio.create_subprocess_exec("npm", "install", "--silent", *PACKAGES, cwd=folder)
        if await npm.wait():
            pytest.skip("npm cannot install the packages of nats.js here")
        _made.append(folder)
    return _made[0]
