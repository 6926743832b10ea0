"""The users of Valkey: one for each service, with its own function and the deployment's keys; operators; replicas."""

import hashlib
from collections.abc import Mapping
from typing import Final

ALLOWED: Final = (
    # What the functions call, now and in later versions: a function runs with the rights of its caller. Without what
    # lists or empties whole databases, blocks, or runs or drops code.
    "+@read +@write -@dangerous -@blocking -@scripting -scan -randomkey -dbsize -move"
    # What a service sends besides: it looks at the server, waits for its disk and its replicas, finds a cluster's
    # primaries, and loads the library where a failover has lost it.
    " +auth +ping +time +select +info +wait +waitaof +readonly +asking +cluster|info +cluster|slots"
    " +function|list +function|load"
)
ADMIN: Final = "admin"
"""The user of whoever looks after the servers."""
REPLICA: Final = "replica"
"""The user as which a replica logs in to its primary."""
_RIGHTS: Final = {ADMIN: "~* &* +@all", REPLICA: "-@all +psync +replconf +ping"}


def hashed(password: str) -> str:
    """Return the SHA-256 that an ACL file has instead of a password, in hex digits."""
    return hashlib.sha256(password.encode()).hexdigest()


def acl(root: str, passwords: Mapping[str, str]) -> str:
    """Return the ACL file, given the hashes of the passwords of each service, by its name, of `admin` and `replica`.

    A service calls no function but its own (`+fcall|name` allows one first argument). It cannot list or flush keys,
    read the configuration, or touch keys outside the root.
    """
    # Nobody can be `default`: it is off and has no password. It keeps its rights, because Valkey reads its append-only
    # file in this user's name, and drops each transaction in it that the user may not run.
    lines = ["user default off resetpass sanitize-payload ~* &* +@all"]
    for name, password in passwords.items():
        own = f"~{root}:* -@all {ALLOWED} +fcall|penstock_{name.replace('-', '_')}"
        rights = _RIGHTS.get(name, own)
        lines.append(f"user {name} on sanitize-payload #{password} resetchannels {rights}")
    return "\n".join(lines) + "\n"
