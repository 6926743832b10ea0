"""The docs as a site: it builds with every link and anchor checked, and needs nothing from elsewhere to be read."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from penstock import Client, Task, Worker
from penstock.verbs import VERBS

pytest.importorskip("material", reason="the docs extra is not installed: make docs")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "--quiet", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(https?:[^"]+)"', page.read_text()
        )
        assert not loaded, (page, loaded)


def test_llms_txt_names_every_page_by_its_file(site: Path) -> None:
    named = set(re.findall(r"^- \[.+?\]\((.+?)\)", (site / "llms.txt").read_text(), re.MULTILINE))
    assert [name for name in named if not (site / name).exists()] == []
    written = {str(page.relative_to(REPOSITORY / "docs")) for page in (REPOSITORY / "docs").rglob("*.md")}
    assert written <= named
    assert "# The contract" in (site / "llms-full.txt").read_text()


def test_the_reference_has_every_verb(site: Path) -> None:
    page = (site / "reference" / "verbs.html").read_text()
    assert [name for name in VERBS if f'id="{name.replace(".", "-").replace("_", "-")}"' not in page] == []
    described = json.loads((site / "reference" / "asyncapi.json").read_text())
    assert described["asyncapi"] == "3.0.0"


@pytest.mark.parametrize("shown", [Client, Task, Worker])
def test_the_reference_has_every_method(site: Path, shown: type) -> None:
    text = "".join(page.read_text() for page in (site / "reference" / "api").glob("*.html"))
    methods = {
        name
        for base in shown.__mro__
        for name, value in vars(base).items()
        if not name.startswith("_") and inspect.isroutine(value) and value.__doc__
    }
    owners = "|".join(base.__name__ for base in shown.__mro__)
    assert [name for name in methods if not re.search(rf'id="[\w.]+\.({owners})\.{name}"', text)] == []


def test_the_examples_of_verbs_are_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    from building.verbs import request_of

    for verb in VERBS.values():
        msgspec.convert(request_of(verb), verb.request)
