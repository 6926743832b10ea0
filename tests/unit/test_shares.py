"""The best executions of several partitions, chosen from the heads that each partition reports."""

from penstock.machine.ops.scheduler import Head
from penstock_scheduler.handing_out.shares import Choice, Share, heads_of_each, share

Heads = dict[int, list[list[tuple[str, str, int, int]]]]


def shared(heads: Heads, lanes: tuple[str, ...], most: int) -> Share:
    typed = {partition: [[Head(*each) for each in of] for of in found] for partition, found in heads.items()}
    return share(typed, lanes, most)


def ids(heads: Heads, most: int = 10, lanes: tuple[str, ...] = ("a",)) -> list[str]:
    return [choice.execution_id for choice in shared(heads, lanes, most).choices]


def test_the_score_decides_and_among_equals_the_time_of_making() -> None:
    heads: Heads = {0: [[("0-5", "", 3, 0), ("0-9", "", 7, 0)]], 1: [[("1-4", "", 3, 0), ("1-2", "", 9, 0)]]}
    assert ids(heads) == ["1-4", "0-5", "0-9", "1-2"]
    assert shared(heads, ("a",), 1).choices == [Choice(1, "1-4")]


def test_lanes_come_in_the_order_of_the_worker() -> None:
    heads: Heads = {0: [[], [("0-1", "", 1, 0)]], 1: [[("1-1", "", 9, 0)], []]}
    assert ids(heads, lanes=("a", "b")) == ["1-1", "0-1"]
    assert ids(heads, most=1, lanes=("a", "b")) == ["1-1"]


def test_a_key_with_a_backlog_in_every_partition_has_one_share() -> None:
    heads: Heads = {
        partition: [[(f"{partition}-{n}", "big", n, 0) for n in range(5)]] for partition in range(3)
    }
    heads[3] = [[("3-8", "small", 8, 0), ("3-9", "small", 9, 0)]]
    chosen = shared(heads, ("a",), 4)
    assert [choice.execution_id for choice in chosen.choices] == ["0-0", "3-8", "1-0", "3-9"]
    assert chosen.turns == {"a": [("big", 2), ("small", 2)]}


def test_turns_are_the_most_that_a_partition_knows_of() -> None:
    heads: Heads = {
        0: [[("0-1", "one", 1, 4), ("0-2", "two", 2, 5)]],
        1: [[("1-1", "one", 1, 6), ("1-2", "one", 2, 7)]],
    }
    assert ids(heads) == ["0-2", "0-1", "1-1", "1-2"]


def test_a_newcomer_where_nobody_else_was_does_not_own_the_lane() -> None:
    heads: Heads = {
        0: [[(f"0-{n}", "old", n, 100) for n in range(40)]],
        1: [[(f"1-{n}", "new", 50 + n, 0) for n in range(40)]],
    }
    chosen = ids(heads, most=30)
    assert sum(each.startswith("0-") for each in chosen) == 11


def test_one_key_alone_shares_with_nobody() -> None:
    assert shared({0: [[("0-1", "k", 1, 3)]], 1: [[("1-1", "k", 2, 0)]]}, ("a",), 2).turns == {}
    assert shared({}, ("a",), 2).choices == []


def test_nothing_is_chosen_after_a_partition_that_may_have_better_than_it_showed() -> None:
    heads: Heads = {
        0: [[("0-1", "", 1, 0), ("0-2", "", 2, 0)], []],
        1: [[("1-9", "", 9, 0)], [("1-3", "", 3, 0)]],
    }
    typed = {partition: [[Head(*each) for each in of] for of in found] for partition, found in heads.items()}
    chosen = [choice.execution_id for choice in share(typed, ("a", "b"), 10, asked=2).choices]
    assert chosen == ["0-1", "0-2"]
    assert ids(heads, lanes=("a", "b")) == ["0-1", "0-2", "1-9", "1-3"]


def test_each_partition_shows_its_part_and_some_more_but_never_more_than_wanted() -> None:
    assert heads_of_each(1, 64) == 1
    assert heads_of_each(64, 2) == 64
    assert heads_of_each(64, 4) == 40
    assert heads_of_each(64, 64) == 10
