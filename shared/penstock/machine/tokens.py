"""Limit tokens, as lua/limit/limits.lua knows them: what an execution needs room in, and where its books are kept.

`b/<budget id>`, `q/<quota id>`, `c/<partition>/<limit>/<namespace>.<key>`; an execution's tokens are joined by `&`.
"""

from collections.abc import Iterator
from itertools import groupby

from penstock.ids import partition_for
from penstock.messages.executions import ExecutionSpec


def limit_of(spec: ExecutionSpec, namespace: str, partitions: int) -> str | None:
    """The tokens that an execution needs room in; None where nothing limits it."""
    tokens = [f"b/{budget_id}" for budget_id in sorted(set(spec.budget_ids))]
    if spec.concurrency_key is not None:
        key = f"{namespace}.{spec.concurrency_key}"
        tokens.append(f"c/{partition_for(key, partitions)}/{spec.concurrency_limit}/{key}")
    if spec.quota_id is not None:
        tokens.append(f"q/{spec.quota_id}")
    return "&".join(tokens) or None


def home_of(token: str) -> int:
    """The partition that keeps a token's books."""
    return int(token.split("/")[1].split("-")[0])


def by_home(tokens: list[str]) -> Iterator[tuple[int, str]]:
    """Each partition that keeps some of them, with those joined as one limit."""
    for home, of in groupby(sorted(tokens, key=home_of), key=home_of):
        yield home, "&".join(of)
