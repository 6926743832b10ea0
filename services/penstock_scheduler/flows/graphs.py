"""Check a flow's graph before anything is written."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from penstock.errors import PenstockError, invalid, make
from penstock.messages.flows import Edge, Join, Member


def check(
    members: Sequence[Member], edges: Sequence[Edge], joins: Mapping[str, Join], *, more: bool = False
) -> None:
    """Raise `invalid_request` (naming the field) or `dependency_cycle` (with its path) for an unsound graph.

    `more`: the members are added to a flow, so an edge may come from a member that is not among these. The state
    machine then checks that this member exists.
    """
    by_key: dict[str, Member] = {}
    for index, member in enumerate(members):
        if member.key in by_key:
            raise invalid(f"members[{index}].key", f"{member.key!r} is there twice")
        by_key[member.key] = member
    following: dict[str, list[str]] = {key: [] for key in by_key}
    incoming: dict[str, int] = dict.fromkeys(by_key, 0)
    data: set[tuple[str, str]] = set()
    seen: set[tuple[str, str]] = set()
    for index, edge in enumerate(edges):
        for field, key in (("from", edge.from_), ("to", edge.to)):
            if key not in by_key and not (more and field == "from"):
                among = "among these members is no" if more else "there is no member"
                raise invalid(f"edges[{index}].{field}", f"{among} {key!r}")
        if (edge.from_, edge.to) in seen:
            raise invalid(f"edges[{index}]", f"{edge.from_!r} leads to {edge.to!r} twice")
        seen.add((edge.from_, edge.to))
        if edge.data is not None:
            if (edge.to, edge.data) in data:
                raise invalid(f"edges[{index}].data", f"two edges give {edge.to!r} the key {edge.data!r}")
            data.add((edge.to, edge.data))
            text = by_key[edge.to].raw_input
            # The request decoder made the input JSON text, or None for null.
            if text is not None and not str(text).lstrip().startswith("{"):
                raise invalid(f"edges[{index}].data", f"the input of {edge.to!r} is not an object")
        incoming[edge.to] += 1
        if edge.from_ in following:
            following[edge.from_].append(edge.to)
    for key, join in joins.items():
        _check_join(key, join, incoming)
    _check_cycles(following)


def check_policy(policy: str, k: int | None, within: str = "") -> None:
    """Raise `invalid_request` unless `k` is given exactly for a quorum. `within`: prefix of the field's name."""
    if (policy == "quorum") != (k is not None):
        raise invalid(f"{within}k", "a quorum needs k, any other policy takes none")


def check_edge(edges: Iterable[Mapping[str, str]], from_: str, to: str) -> None:
    """Raise `dependency_cycle` if a path of edges already leads from `to` to `from_`."""
    following: dict[str, list[str]] = {}
    for edge in edges:
        following.setdefault(edge["from"], []).append(edge["to"])
    came_from = {to: ""}
    reached = deque([to])
    while reached and from_ not in came_from:
        key = reached.popleft()
        for child in following.get(key, ()):
            if child not in came_from:
                came_from[child] = key
                reached.append(child)
    if from_ not in came_from:
        return
    walk = [from_]
    while walk[-1] != to:
        walk.append(came_from[walk[-1]])
    raise _cycle([from_, *reversed(walk)])


def _check_join(key: str, join: Join, incoming: Mapping[str, int]) -> None:
    if key not in incoming:
        raise invalid(f"joins.{key}", f"there is no member {key!r}")
    if not incoming[key]:
        raise invalid(f"joins.{key}", f"no edge leads to {key!r}")
    check_policy(join.policy, join.k, f"joins.{key}.")
    if join.k is not None and join.k > incoming[key]:
        raise invalid(f"joins.{key}.k", f"k is {join.k}, but only {incoming[key]} edges lead to {key!r}")


def _check_cycles(following: Mapping[str, Sequence[str]]) -> None:
    """Raise `dependency_cycle`, with its path, if the edges form a cycle."""
    # Kahn, "Topological sorting of large networks" (1962): a member that is never freed is on or behind a cycle.
    waiting = dict.fromkeys(following, 0)
    for children in following.values():
        for child in children:
            waiting[child] += 1
    free = [key for key, count in waiting.items() if not count]
    while free:
        key = free.pop()
        del waiting[key]
        for child in following[key]:
            waiting[child] -= 1
            if not waiting[child]:
                free.append(child)
    if not waiting:
        return
    # Each remaining member has a remaining parent, so walking back through parents ends in a cycle.
    parents = {child: key for key in waiting for child in following[key] if child in waiting}
    walk: list[str] = []
    at = next(iter(waiting))
    while at not in walk:
        walk.append(at)
        at = parents[at]
    raise _cycle([at, *reversed(walk[walk.index(at) :])])


def _cycle(path: list[str]) -> PenstockError:
    return make(
        "dependency_cycle", f"these members wait for each other: {' → '.join(path)}", detail={"path": path}
    )
