"""The fields of a settings struct as environment variables: `PENSTOCK_<NAME>`, parsed by the field's type."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from penstock.environment import GATEWAY, set_by_kubernetes
from penstock.urls import redact

PREFIX: Final = "PENSTOCK_"
NOT_SETTINGS: Final = frozenset({"PENSTOCK_READY_FILE"})
"""Variables that the runtime reads but that are no settings: a supervisor sets them for one start."""
SECRET: Final = {"secret": True}
"""Mark of a field that may hold credentials: it is shown redacted."""
HIDDEN: Final = {"secret": True, "hidden": True}
"""Mark of a field whose value is never shown."""


class Field(NamedTuple):
    """One setting, as `--help` and the docs show it."""

    name: str
    variable: str
    type: Any
    default: str
    description: str
    secret: bool
    """The value may hold a login, and is shown without it."""
    hidden: bool = False
    """The value is never shown."""

    def parse(self, text: str) -> Any:
        """Return the value that a variable's text stands for. Raise msgspec.ValidationError if it is none."""
        kind = get_args(self.type)[0] if get_origin(self.type) is Annotated else self.type
        if kind is bool:  # accept more words than msgspec does
            text = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(
                text.lower(), text.lower()
            )
        return msgspec.convert(text, self.type, strict=False)

    def shown(self, value: Any) -> Any:
        """Return a value of this field without what is secret in it, fit for logs."""
        if self.hidden:
            return "***" if value else value
        return redact(value) if self.secret else value


def fields_of(struct: type[Struct]) -> tuple[Field, ...]:
    """Return the fields of a settings struct, each of which is `Annotated` with a `Meta` that describes it."""
    rows: list[Field] = []
    hints = get_type_hints(struct, include_extras=True)
    for info in msgspec.structs.fields(struct):
        annotation = hints[info.name]
        meta: Meta = get_args(annotation)[1]
        default = "" if info.default in (msgspec.NODEFAULT, None) else _text(info.default)
        rows.append(
            Field(
                name=info.name,
                variable=PREFIX + info.name.upper(),
                type=annotation,
                default=default,
                description=meta.description or "",
                secret=bool((meta.extra or {}).get("secret")),
                hidden=bool((meta.extra or {}).get("hidden")),
            )
        )
    return tuple(rows)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def unknown(environ: Mapping[str, str], fields: Iterable[Field]) -> list[str]:
    """Return a line for each variable that begins with PENSTOCK_ and is no setting, with the likely name if any."""
    known = [field.variable for field in fields]
    found: list[str] = []
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in known or name in NOT_SETTINGS:
            continue
        if name.startswith(GATEWAY) or set_by_kubernetes(name, value):
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        advice = f"did you mean {close[0]}?" if close else "unset it; --help of a service names all settings"
        found.append(f"{name} is no setting: {advice}")
    return found
