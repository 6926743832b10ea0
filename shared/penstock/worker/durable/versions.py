"""Versions of a handler's code: which one began an execution, and which ones a worker takes."""

import re
from collections.abc import Sequence
from typing import Final

_VERSION: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FROM: Final = re.compile(r">=\s*([0-9]+)")
MOST: Final = 100


def checked(version: str) -> str:
    """Return a version, or raise `ValueError`: it is 1 to 64 of A-Z a-z 0-9 _ . -"""
    if not isinstance(version, str) or not _VERSION.fullmatch(version):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"a version is a str of A-Z a-z 0-9 _ . - (at most 64), not {version!r}")
    return version


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version such as `3` or `3.1`, to compare it. Raise `ValueError` for any other form."""
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        raise ValueError(
            f"the version {version!r} cannot be compared: use numbers with dots, such as '3.1'"
        ) from None


def at_least(version: str | None, wanted: str) -> bool:
    """Return whether `version` is `wanted` or later. An execution that was begun without a version is older
    than all.
    """
    lowest = numbers(wanted)
    return version is not None and numbers(version) >= lowest


def accepted(version: str | None, accepts: str | Sequence[str] | None) -> list[str]:
    """Return the versions that a handler takes: a list as it is; `">=2"` is all whole numbers up to `version`.

    None means that executions are not pinned to versions. Raise `ValueError` for what cannot be meant.
    """
    if accepts is None:
        return []
    if version is None:
        raise ValueError("accepts= needs version=, the version of this code")
    if not isinstance(accepts, str):
        return sorted({checked(each) for each in accepts} | {version})
    found = _FROM.fullmatch(accepts.strip())
    if found is None or not version.isdecimal():
        raise ValueError(
            "accepts= is a list of versions, or '>=2' where versions are whole numbers: "
            f"not {accepts!r} with version {version!r}"
        )
    lowest, highest = int(found[1]), int(version)
    if lowest > highest or highest - lowest >= MOST:
        raise ValueError(f"accepts={accepts!r} with version {version!r}: it is 1 to {MOST} versions")
    return [str(each) for each in range(lowest, highest + 1)]
