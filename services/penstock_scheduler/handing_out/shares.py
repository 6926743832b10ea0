"""Choose the best work of several partitions, so that priority, age and fairness hold across all of them."""

import heapq
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Final, NamedTuple

from penstock.machine.ops.scheduler import Head

BEHIND: Final = 8
"""The most turns by which a fairness key may lag behind the key with the most turns."""

SPARE: Final = 8
"""Heads that each partition shows beyond twice its even part: enough for a few fairness keys."""

Turns = dict[str, list[tuple[str, int]]]
"""By lane: the fairness keys, each with the number of turns it has had."""


class Choice(NamedTuple):
    partition: int
    execution_id: str


class Share(NamedTuple):
    choices: list[Choice]
    """Best first."""
    turns: Turns
    """The turns that every partition must know: those of lanes that several fairness keys share."""


def heads_of_each(most: int, partitions: int) -> int:
    """Return how many heads each of so many partitions is asked for, if `most` are wanted of all together.

    Twice its even part and some more: what is queued spreads evenly over partitions, so hardly one has more of the
    best than that. To ask each for `most` would make an execution dearer with every partition.
    """
    return min(most, 2 * ceil(most / partitions) + SPARE)


def share(
    heads: Mapping[int, Sequence[Sequence[Head]]], lanes: Sequence[str], most: int, asked: int | None = None
) -> Share:
    """Choose at most `most` of the heads that partitions returned from the op `heads`, lane by lane.

    asked: how many heads each partition was asked for. A partition of which so many are chosen may have better ones
    than all that is left of the others, so nothing is chosen after that; the next round goes on.

    Stride scheduling as within a partition (lua/queue/turns.lua): the fairness key with the fewest turns is next; of
    equal keys, the one with the better head. A key's turns are the highest count of any partition, but at most BEHIND
    fewer than the top key's: a newcomer that was alone in its partition starts there, so it cannot hog the lane.
    """
    choices: list[Choice] = []
    turns: Turns = {}
    left = dict.fromkeys(heads, most if asked is None else asked)
    for number, lane in enumerate(lanes):
        found = {partition: of[number] for partition, of in heads.items() if of[number]}
        counted = _by_turns(found, most - len(choices), choices, left)
        if len(counted) > 1:
            turns[lane] = list(counted.items())
        if 0 in left.values():
            break
    return Share(choices, turns)


def _by_turns(
    found: Mapping[int, Sequence[Head]], most: int, choices: list[Choice], left: dict[int, int]
) -> dict[str, int]:
    """Append the choices of one lane, until one partition has none left. Return the turns of its fairness keys."""
    turns: dict[str, int] = {}
    work: dict[str, list[tuple[float, str, Choice]]] = {}
    for partition, heads in found.items():
        first: dict[str, int] = {}
        for head in heads:
            key = head.fairness_key
            first.setdefault(key, head.turns)
            # Order equal scores by id, but without the partition that an id begins with.
            made = head.execution_id.partition("-")[2]
            work.setdefault(key, []).append((head.score, made, Choice(partition, head.execution_id)))
        for key, had in first.items():
            turns[key] = max(turns.get(key, 0), had)
    floor = max(turns.values(), default=0) - BEHIND
    turns = {key: max(had, floor) for key, had in turns.items()}
    for of in work.values():
        of.sort(reverse=True)
    queue = [(turns[key], of[-1], key) for key, of in work.items()]
    heapq.heapify(queue)
    while queue and most > 0:
        _, (_, _, choice), key = heapq.heappop(queue)
        choices.append(choice)
        most -= 1
        turns[key] += 1
        work[key].pop()
        if work[key]:
            heapq.heappush(queue, (turns[key], work[key][-1], key))
        left[choice.partition] -= 1
        if not left[choice.partition]:
            break
    return turns
