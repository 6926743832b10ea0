"""The Lua library `penstock`: assembled from `lua/`, and loaded when the server's library is older.

Within a major version the library only gains functions, so an old service keeps working with a newer library.
"""

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from penstock.errors import PenstockError

LIBRARY_VERSION: Final = 2
"""Increase it with every release that changes `lua/`."""

_HEADER: Final = re.compile(rb"-- penstock library version=(\d+) digest=([0-9a-f]+)")


_FINAL: Final = re.compile(r"refused the call: (ERR|NOPERM) ")
"""Refusals that no waiting changes: the code does not compile, a name is taken, the user may not. Others pass by."""


class LibraryError(Exception):
    """The library cannot be loaded, or the server holds one of the same version with other contents."""


def _folder() -> Path:
    """Return the folder of the Lua files: `penstock/lua` in a wheel, `lua/` beside `shared/` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "lua"
    return installed if installed.is_dir() else package.parents[1] / "lua"


@cache
def assemble() -> tuple[str, str]:
    """Return the library's code, made of the files that `lua/manifest` names in that order, and its digest."""
    folder = _folder()
    names = (folder / "manifest").read_text().split()
    # Each file becomes a `do` block, so that its locals stay private; the prelude's locals are visible to all files.
    prelude, *rest = ((folder / name).read_text() for name in names)
    body = prelude + "".join(f"do -- {name}\n{text}end\n" for name, text in zip(names[1:], rest, strict=True))
    digest = hashlib.sha256(body.encode()).hexdigest()[:16]
    header = f"#!lua name=penstock\n-- penstock library version={LIBRARY_VERSION} digest={digest}\n"
    return header + body, digest


async def ensure(execute: Any, *, dev: bool = False) -> None:
    """Load the library unless the server has this one or a newer one.

    `execute(*command)` runs one Valkey command. Raise LibraryError when the server's library has this
    version but other contents, unless `dev`, or refuses to load it; PenstockError("valkey_unavailable").
    """
    code, digest = assemble()
    try:
        listed = await execute("FUNCTION", "LIST", "LIBRARYNAME", "penstock", "WITHCODE")
        if not listed or _is_older(listed, digest, dev=dev):
            await execute("FUNCTION", "LOAD", "REPLACE", code)
    except PenstockError as error:
        if _FINAL.search(error.message):
            raise LibraryError(f"Penstock's Lua library cannot be loaded: {error.message}") from None
        raise


def _is_older(listed: list[Any], digest: str, *, dev: bool) -> bool:
    """Return whether the library in a FUNCTION LIST reply is to be replaced by this one."""
    found = _HEADER.search(_code_of(listed))
    if not found:
        return True
    version = int(found[1])
    if version != LIBRARY_VERSION:
        return version < LIBRARY_VERSION
    same = found[2].decode() == digest
    if not same and not dev:
        raise LibraryError(
            f"Valkey holds another build of Penstock's library version {version}; "
            "raise LIBRARY_VERSION, or set PENSTOCK_DEV=1 to replace it"
        )
    return not same


def _code_of(listed: list[Any]) -> bytes:
    """Return the code in a FUNCTION LIST reply of one library (RESP2: flat field lists)."""
    fields = listed[0]
    return bytes(fields[fields.index(b"library_code") + 1])
