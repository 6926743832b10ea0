"""A folder with the JavaScript examples and the npm packages that they need."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PACKAGES = ("@nats-io/transport-node", "@nats-io/jetstream")
_made: dict[tuple[str, ...], Path] = {}


async def node_folder(programs: Path = EXAMPLES, *packages: str) -> Path:
    """Return a folder with the programs (*.mjs) of another one and these packages of npm (without any: NATS').

    It is made once. Skips the test if there is no Node or npm cannot install the packages.
    """
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("there is no Node here")
    wanted = (str(programs), *(packages or PACKAGES))
    if wanted not in _made:
        folder = Path(tempfile.mkdtemp(prefix="penstock-js-"))
        for program in list(programs.glob("*.mjs")):  # noqa: ASYNC240
            shutil.copy(program, folder)
        npm = await asyncio.create_subprocess_exec("npm", "install", "--silent", *wanted[1:], cwd=folder)
        if await npm.wait():
            pytest.skip(f"npm cannot install {', '.join(wanted[1:])} here")
        _made[wanted] = folder
    return _made[wanted]
