"""Limit tokens, in the form of lua/limit/limits.lua: each names a limit that an execution needs room in.

`b/<budget id>`, `q/<quota id>`, `c/<partition>/<limit>/<namespace>.<key>`; an execution's tokens are joined by `&`.
The partition in a token (for a budget or quota, that of its id) is the one that keeps the limit.
"""

from collections.abc import Iterator
from itertools import groupby

from penstock.ids import partition_for
from penstock.messages.executions import ExecutionSpec


def limit_of(spec: ExecutionSpec, namespace: str, partitions: int) -> str | None:
    """Return the execution's tokens, joined; None if nothing limits it."""
    if not spec.budget_ids and spec.concurrency_key is None and spec.quota_id is None:
        return None  # as for nearly all executions
    tokens = [f"b/{budget_id}" for budget_id in sorted(set(spec.budget_ids))]
    if spec.concurrency_key is not None:
        key = f"{namespace}.{spec.concurrency_key}"
        tokens.append(f"c/{partition_for(key, partitions)}/{spec.concurrency_limit}/{key}")
    if spec.quota_id is not None:
        tokens.append(f"q/{spec.quota_id}")
    return "&".join(tokens)


def home_of(token: str) -> int:
    """Return the partition that keeps a token's limit."""
    return int(token.split("/")[1].split("-")[0])


def by_home(tokens: list[str]) -> Iterator[tuple[int, str]]:
    """Group tokens by the partition that keeps them. Yield each partition with its tokens, joined."""
    for home, of in groupby(sorted(tokens, key=home_of), key=home_of):
        yield home, "&".join(of)
