"""Files of the repository as pages of the site, so that a page may link to them as it does on GitHub."""

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LANGUAGES = {
    "py": "python",
    "mjs": "javascript",
    "json": "json",
    "yaml": "yaml",
    "md": "markdown",
    "sh": "sh",
}
SHOWN_BYTES = 200_000
_link = re.compile(r"(?<=\]\()(?P<path>(?:\.\./)+[^)#\s]+)")


def pages(texts: Mapping[str, str]) -> dict[str, str]:
    """Return a page for each file outside docs/ that these pages (by path) link to, and for what is in a folder."""
    made: dict[str, str] = {}
    for uri, text in texts.items():
        for found in _link.finditer(text):
            if (path := _outside(uri, found["path"])) is not None:
                _add(path, made)
    return made


def relinked(uri: str, text: str) -> str:
    """Return a page's text, its links to files outside docs/ led to the pages of those files."""

    def lead(found: re.Match[str]) -> str:
        path = _outside(uri, found["path"])
        return found[0] if path is None else posixpath.relpath(_page_of(path), posixpath.dirname(uri) or ".")

    return _link.sub(lead, text)


def _outside(uri: str, link: str) -> Path | None:
    """Return the file that a page's link leads to, relative to the repository, unless it is within docs/ or is none."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(uri), link))
    within = target == "docs" or target.startswith(("docs/", "../"))
    return None if within or not (REPOSITORY / target).exists() else Path(target)


def _page_of(path: Path) -> str:
    return f"source/{path.as_posix()}.md"


def _add(path: Path, made: dict[str, str]) -> None:
    """Add the page of a file, or that of a folder with the pages of its files."""
    page, full = _page_of(path), REPOSITORY / path
    if page in made:
        return
    if full.is_dir():
        inside = sorted(each for each in full.iterdir() if each.name[0] not in "._")
        inside = [each for each in inside if each.is_dir() or each.stat().st_size < SHOWN_BYTES]
        rows = [f"- [{each.name}]({path.name}/{each.name}.md)" for each in inside]
        made[page] = "\n".join([f"# {path.as_posix()}", "", *rows])
        for each in inside:
            _add(path / each.name, made)
        return
    text = full.read_text()
    fence = "`" * (1 + max(map(len, ["``", *re.findall("`+", text)])))
    language = LANGUAGES.get(path.suffix.removeprefix("."), "text")
    made[page] = f"# {path.as_posix()}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"
