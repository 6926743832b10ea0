"""The versions of the servers that Penstock works with, and those with known holes."""

import re
from collections.abc import Mapping
from typing import Any, Final

OLDEST: Final[dict[str, tuple[int, ...]]] = {"nats-server": (2, 12), "Valkey": (8, 0), "Redis": (7,)}

_LUA_FIXED: Final[dict[str, dict[tuple[int, ...], int]]] = {
    "Valkey": {(8, 0): 6, (8, 1): 4},
    "Redis": {(7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
}
"""The first release of each branch without the holes in Lua of October 2025 (CVE-2025-49844, of which a script that
is run can take over the server, and CVE-2025-46817, -46818, -46819). Branches after these never had them."""


def numbers(version: str) -> tuple[int, ...]:
    """Parse a version such as `2.15.1` into a tuple of at most three numbers, to be compared."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def of(info: Mapping[str, Any]) -> tuple[str, str]:
    """Return name (Valkey or Redis) and version from the fields of Valkey's INFO."""
    valkey = info.get("valkey_version")
    return ("Valkey", str(valkey)) if valkey else ("Redis", str(info.get("redis_version", "0")))


def too_old(name: str, version: str) -> str:
    """Return what to do if the version of this server is too old, else an empty string."""
    oldest = OLDEST[name]
    return "" if numbers(version) >= oldest else f"{name} {'.'.join(map(str, oldest))} or newer is needed"


def known_holes(name: str, version: str) -> str:
    """Return a warning if the version of this server has known holes in Lua, else an empty string."""
    found, fixed = numbers(version), _LUA_FIXED[name]
    branch = found[:2]
    if branch > max(fixed) or (branch in fixed and found[2:] >= (fixed[branch],)):
        return ""
    better = ", ".join(f"{major}.{minor}.{patch}" for (major, minor), patch in fixed.items())
    return (
        f"{name} {version} has known holes in Lua (CVE-2025-49844 and others): update it ({better} or newer), unless"
        " your distribution has mended them under this number"
    )
