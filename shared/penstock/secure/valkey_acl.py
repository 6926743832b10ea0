"""The users of Valkey: one for each service, with its own function and the deployment's keys, and one for operators."""

import hashlib
from collections.abc import Mapping
from typing import Final

COMMANDS: Final = (
    "append exists get getrange hdel hexists hget hgetall hset incr llen lpush lrange ltrim mget mset pexpire rpush"
    " sadd scard set setnx smembers smismember srandmember srem strlen time unlink xadd xlen xrange xtrim zadd zcard"
    " zcount zincrby zlexcount zmscore zpopmin zrange zrangebyscore zrank zrem zremrangebyscore zrevrange zrevrank"
    " zscore"
)
"""What `lua/` calls. A function runs with the rights of whoever calls it, so its caller must have these itself."""
CONNECTION: Final = (
    "auth ping select info function|list function|load"
    " wait waitaof readonly asking cluster|info cluster|slots"
)
"""What a service sends besides: it looks at the server, waits for its disk and its replicas, finds a cluster's
primaries, and loads the library where a failover has lost it."""
ADMIN: Final = "admin"


def acl(root: str, passwords: Mapping[str, str]) -> str:
    """Return the ACL file, with the hashes of the passwords: of each service by its name, and of `admin`.

    A user of another function than its own is refused (`+fcall|name` allows one first argument). No user can list
    or flush keys, read the configuration, or touch keys outside the root.
    """
    lines = ["user default off nopass sanitize-payload resetchannels -@all"]
    for name, password in passwords.items():
        login = (
            f"user {name} on sanitize-payload #{hashlib.sha256(password.encode()).hexdigest()} resetchannels"
        )
        if name == ADMIN:
            lines.append(f"{login} ~* &* +@all")
            continue
        function = f"fcall|penstock_{name.replace('-', '_')}"
        allowed = " ".join(f"+{command}" for command in (*CONNECTION.split(), function, *COMMANDS.split()))
        lines.append(f"{login} ~{root}:* -@all {allowed}")
    return "\n".join(lines) + "\n"
