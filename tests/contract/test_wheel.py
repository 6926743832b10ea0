"""An installed wheel runs outside the repository and uses no file of the checkout."""

import asyncio
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import commands
from commands import Up
from penstock.console import server as console

REPOSITORY = Path(__file__).parents[2]
PIP_S = 240


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PIP_S)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as a release would."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, REPOSITORY, cwd=folder)
    (built,) = folder.glob("penstock-*.whl")
    return built


def test_the_wheel_holds_the_packages_and_the_library(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    services = {path.name for path in (REPOSITORY / "services").glob("penstock_*")}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"penstock", *services}
    assert ("penstock/console/static/index.html" in names) == (console.missing() is None)
    assert {"penstock/lua/manifest", "penstock/lua/core/prelude.lua", "penstock/py.typed"} <= set(names)


async def test_an_installed_wheel_runs_outside_the_repository(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    await asyncio.to_thread(venv.create, tmp_path / "venv")
    bin = tmp_path / "venv" / "bin"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        bin / "python",
        "--quiet",
        "--disable-pip-version-check",
        "install",
    ]
    await asyncio.to_thread(run, *pip, f"penstock[embedded] @ {wheel.as_uri()}", cwd=tmp_path)
    imported = run(bin / "python", "-c", "import penstock; print(penstock.__file__)", cwd=tmp_path)
    assert imported.startswith(str(tmp_path))
    assert "PENSTOCK_NATS_URL" in run(bin / "penstock-lease-keeper", "--help", cwd=tmp_path)

    worker = tmp_path / "worker.py"
    worker.write_text(
        "import sys\n"
        "from penstock import Task, Worker\n"
        "worker = Worker(sys.argv[1])\n"
        "@worker.handler('double')\n"
        "async def double(task: Task, n: int) -> int:\n"
        "    return 2 * n\n"
        "worker.main()\n"
    )
    async with Up.open(tmp_path, command=(str(bin / "penstock"),)) as up:
        url = up.facts["nats_url"]
        process = await asyncio.create_subprocess_exec(
            bin / "python", worker, url, cwd=tmp_path, env=commands.clean_environment()
        )
        try:
            submit = [bin / "penstock", "submit", "double", '{"n": 21}', "--nats", url, "--wait"]
            assert await asyncio.to_thread(run, *submit, "--wait-s", "30", cwd=tmp_path) == "42\n"
        finally:
            process.terminate()
            await process.wait()
