"""The pages for language models: llms.txt (llmstxt.org), which lists them, and llms-full.txt, which has their text."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_comment = re.compile(r"<!--.*?-->\n*", re.DOTALL)
_link = re.compile(r"\[([^]]*)\]\([^)]*\)")
_sentence = re.compile(r"(?:.|\n)+?[.](?=\s|$)")


def files(name: str, about: str, nav: list[Any], texts: Mapping[str, str]) -> dict[str, str]:
    """Return the files, by their path. `texts` are the pages, `nav` is that of mkdocs.yml."""
    shown = {path: _comment.sub("", text) for path, text in texts.items() if not path.startswith("source/")}
    written = [path for path in _paths(nav) if not path.startswith("reference/api/")]
    lines = [f"# {name}", "", f"> {about}"]
    for section in nav:
        [(title, inside)] = section.items()
        lines += ["", f"## {title}", ""]
        lines += [_line(path, shown[path]) for path in _paths([inside]) if path in written]
    return {
        **shown,
        "llms.txt": "\n".join(lines) + "\n",
        "llms-full.txt": "\n\n".join(shown[path].strip() for path in written) + "\n",
    }


def _paths(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, list):
            yield from _paths(entry)
        else:
            yield from _paths(list(entry.values()))


def _line(path: str, text: str) -> str:
    """Return the entry of a page: its title, and the first sentence below it."""
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    assert title is not None, f"{path} has no title"
    first = re.match(r"\s*([A-Za-z`*\[].*)", text[title.end() :], re.DOTALL)
    sentence = _sentence.match(first[1]) if first else None
    if sentence is None:
        return f"- [{title[1]}]({path})"
    about = _link.sub(r"\1", " ".join(sentence[0].split()))
    return f"- [{title[1]}]({path}): {about}"
