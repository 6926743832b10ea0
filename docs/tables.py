"""Writes the tables of the docs that come from the code: `python docs/tables.py`. A test checks them."""

import re
from pathlib import Path

from penstock.errors import TABLE
from penstock.runtime.settings import markdown_table
from penstock.secure.roles import PERMISSIONS
from penstock.verbs import VERBS
from penstock_gateway.settings import rows as gateway_settings

HERE = Path(__file__).parent


def verbs() -> str:
    rows = [
        "| subject after `penstock.v1.` | service | takes | gives | batches |",
        "| --- | --- | --- | --- | --- |",
    ]
    for verb in VERBS.values():
        reply = re.sub(r"[\w.]*\.", "", str(getattr(verb.reply, "__name__", verb.reply)))
        if "Page" in str(verb.reply):
            reply = re.sub(r".*Page\[(?:\w+\.)*(\w+)\]", r"items of \1", str(verb.reply))
        fields = ", ".join(name for name in verb.request.__struct_encode_fields__)
        rows.append(
            f"| `{verb.name}` | {verb.service} | {fields} | {reply} | {'yes' if verb.batch else ''} |"
        )
    return "\n".join(rows)


def errors() -> str:
    rows = ["| code | class | number | meaning |", "| --- | --- | --- | --- |"]
    rows += [f"| `{e.code}` | {e.error_class} | {e.number} | {e.meaning} |" for e in TABLE.values()]
    return "\n".join(rows)


def roles() -> str:
    """What each role may do; the subjects are without the root."""
    rows = [
        "| role | what for | verbs | publishes | hears | streams |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for role, allowed in PERMISSIONS.items():
        by_resource: dict[str, list[str]] = {}
        for name in sorted(allowed.verbs):
            by_resource.setdefault(name.split(".")[0], []).append(name.split(".")[1])
        verbs = "; ".join(f"{resource}: {', '.join(names)}" for resource, names in by_resource.items())
        streams = [f"reads {stream}" for stream in allowed.read]
        streams += [f"sees {stream}" for stream in allowed.info if stream not in allowed.read]
        publishes = ", ".join(f"`{each}`" for each in allowed.publish)
        hears = ", ".join(f"`{each}`" for each in allowed.subscribe)
        if role == "publisher":
            publishes = "the subjects it was given"
        rows.append(
            f"| {role} | {allowed.purpose} | {verbs} | {publishes} | {hears} | {', '.join(streams)} |"
        )
    return "\n".join(rows)


def gateway() -> str:
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    rows += [f"| `{name}` | `{default or ' '}` | {text} |" for name, default, text in gateway_settings()]
    return "\n".join(rows)


TABLES = {
    "verbs": verbs,
    "errors": errors,
    "settings": markdown_table,
    "roles": roles,
    "gateway": gateway,
}


def filled(text: str) -> str:
    """The text with each `<!-- table: name -->` … `<!-- end -->` filled anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in sorted(HERE.glob("*.md")):
        page.write_text(filled(page.read_text()))
