"""The blocks of code in a page of the docs, and what runs them (tests/contract/test_snippets.py has the convention)."""

import ast
import asyncio
import inspect
import os
import re
import shutil
import sys
import textwrap
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

from commands import clean_environment
from penstock import Client, Worker
from running_penstock import RunningPenstock

REPOSITORY = Path(__file__).parents[1]
MODULE = "page"
"""The name of the module that a page's Python makes up."""
WAIT_S = 60.0
EXAMPLES = [
    path.read_text()
    for path in (REPOSITORY / "examples").rglob("*")
    if path.suffix in (".py", ".mjs", ".json")
]
_fence = re.compile(r"(?P<indent> *)```(?P<language>\w+)(?: .*?\btitle=\"(?P<title>[^\"]+)\")?")
_hidden = re.compile(r"<!-- run\n(.*?)^-->", re.DOTALL | re.MULTILINE)
_before = re.compile(r"<!-- (?:(background)|not run: (.+)) -->\n+ *$")


class Block(NamedTuple):
    """One block of code. `how` is what is done with it."""

    line: int
    language: str
    title: str | None
    code: str
    how: Literal["run", "background", "skip"]


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a page in Markdown, the hidden ones among them, in their order."""
    return sorted([*_hidden_ones(text), *_shown(text)])


def _hidden_ones(text: str) -> Iterator[Block]:
    for found in _hidden.finditer(text):
        yield Block(_line_of(text, found.start(1)), "python", None, textwrap.dedent(found[1]), "run")


def _shown(text: str) -> Iterator[Block]:
    place = 0
    while found := _fence.search(text, place):
        begin = text.index("\n", found.start()) + 1
        end = text.index(f"\n{found['indent']}```", begin - 1) + 1
        code = textwrap.dedent(text[begin:end])
        mark = _before.search(text, 0, found.start())
        how = "run" if mark is None else "background" if mark[1] else "skip"
        yield Block(_line_of(text, begin), found["language"], found["title"], code, how)
        place = text.index("\n", end) if "\n" in text[end:] else len(text)


def _line_of(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def is_run(block: Block) -> bool:
    """Return whether a block is for the test of its page: neither marked, nor shown from a program in examples/."""
    runnable = block.language in ("python", "sh") or block.title is not None
    return runnable and block.how != "skip" and (block.title is not None or not _is_example(block.code))


def _is_example(code: str) -> bool:
    return any(code.strip() in text for text in EXAMPLES)


class Reader:
    """Does what a page says, with a Penstock whose root is `penstock`, in a folder of its own."""

    def __init__(self, page: Path, penstock: RunningPenstock, folder: Path) -> None:
        self._page = page
        self._penstock = penstock
        self._folder = folder
        self._processes: list[tuple[str, Process]] = []
        self._address = penstock.url.removeprefix("nats://")
        self._module = ModuleType(MODULE)
        self._names: dict[str, Any] = self._module.__dict__
        self._names |= {"stack": penstock, "start": self.start, "stop": self.stop, "said": ""}
        scripts = [str(Path(sys.executable).parent)]
        if shutil.which("nats") is None:
            scripts.append(str(Path(__file__).parent / "scripts"))
        self._environment = {
            **clean_environment(),
            "PATH": os.pathsep.join([*scripts, os.environ["PATH"]]),
            "PENSTOCK_NATS_URL": penstock.url,
            "NATS_URL": penstock.url,
            "PYTHONUNBUFFERED": "1",
        }

    async def __aenter__(self) -> "Reader":
        sys.modules[MODULE] = self._module
        sys.path.insert(0, str(self._folder))
        return self

    async def __aexit__(self, *_: object) -> None:
        sys.path.remove(str(self._folder))
        for name, module in list(sys.modules.items()):
            if name == MODULE or str(getattr(module, "__file__", None)).startswith(f"{self._folder}{os.sep}"):
                del sys.modules[name]
        await self.stop("")
        for each in list(self._names.values()):
            if isinstance(each, Client):
                await each.close()

    async def do(self, block: Block) -> None:
        """Do what one block says. Raises `AssertionError` with what was printed if a command fails."""
        code = re.sub(r"(localhost|127\.0\.0\.1):4222", self._address, block.code)
        if block.title is not None:
            path = self._folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
        elif block.language == "python":
            await asyncio.wait_for(self._python(code, block.line), WAIT_S)
        elif block.how == "background":
            for line in filter(str.strip, code.splitlines()):
                self._processes.append((line, await self._begin(f"exec {line}", DEVNULL)))
        else:
            await self._shell(code, block.line)

    async def start(self, worker: Worker) -> Worker:
        """Run a worker of the page until the page ends."""
        return await self._penstock.run_worker(worker)

    async def stop(self, text: str, *, kill: bool = False) -> None:
        """End the background processes whose command has this text, by SIGTERM or by SIGKILL."""
        ended = [(line, process) for line, process in self._processes if text in line]
        assert ended or not text, f"no background process is {text!r}"
        for _, process in ended:
            if process.returncode is None:
                process.kill() if kill else process.terminate()
        for line, process in ended:
            await asyncio.wait_for(process.wait(), WAIT_S)
            self._processes.remove((line, process))

    async def _python(self, code: str, line: int) -> None:
        # With the lines before it left empty, a traceback names the line of the page.
        compiled = compile(
            "\n" * (line - 1) + code,
            str(self._page),
            "exec",
            ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        result = eval(compiled, self._names)
        if inspect.isawaitable(result):
            await result

    async def _shell(self, code: str, line: int) -> None:
        kept = "\n".join(each for each in code.splitlines() if not each.startswith("penstock up"))
        process = await self._begin(kept, PIPE)
        try:
            out, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
        finally:
            if process.returncode is None:
                process.kill()
        self._names["said"] = out.decode()
        assert process.returncode == 0, f"{self._page}:{line}: exit code {process.returncode}\n{out.decode()}"

    async def _begin(self, script: str, out: int) -> Process:
        return await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", script),
            cwd=self._folder,
            env=self._environment,
            stdin=DEVNULL,
            stdout=out,
            stderr=STDOUT,
        )
