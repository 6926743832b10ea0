"""The best work of several partitions: priority, age and fairness hold over all of them."""

import heapq
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from penstock.machine.ops.scheduler import Head

BEHIND: Final = 8
"""So many turns a fairness key may make up for."""

Turns = dict[str, list[tuple[str, int]]]
"""By lane: fairness keys, and how many turns each has had."""


class Choice(NamedTuple):
    partition: int
    execution_id: str


class Share(NamedTuple):
    choices: list[Choice]
    """Best first."""
    turns: Turns
    """What every partition has to know, where there is somebody to share with."""


def share(heads: Mapping[int, Sequence[Sequence[Head]]], lanes: Sequence[str], most: int) -> Share:
    """Chooses at most `most` of the heads that partitions answered to the op `heads`, lane by lane.

    Stride scheduling as within a partition (lua/queue/turns.lua): the fairness key with the fewest turns is
    next, of equal ones the key whose best work is first. A key's turns are the most that any partition knows of, and
    few behind those of the key that has had most: one that has just come where nobody else was starts there.
    """
    choices: list[Choice] = []
    turns: Turns = {}
    for number, lane in enumerate(lanes):
        found = {partition: of[number] for partition, of in heads.items() if of[number]}
        counted = _by_turns(found, most - len(choices), choices)
        if len(counted) > 1:
            turns[lane] = list(counted.items())
    return Share(choices, turns)


def _by_turns(found: Mapping[int, Sequence[Head]], most: int, choices: list[Choice]) -> dict[str, int]:
    """Appends what is chosen in one lane. Returns the fairness keys' turns."""
    turns: dict[str, int] = {}
    work: dict[str, list[tuple[float, str, Choice]]] = {}
    for partition, heads in found.items():
        first: dict[str, int] = {}
        for head in heads:
            key = head.fairness_key
            first.setdefault(key, head.turns)
            # Of the same age: in the order of their ids, apart from the partition that these begin with.
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
    return turns
