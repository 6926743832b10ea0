"""Ids: version 7 UUIDs that sort by their making, with chance that no two processes share."""

import re
import subprocess
import sys

from penstock.ids import UUID_PATTERN, Uuid7, new_id, partition_of


def test_ids_of_one_millisecond_sort_as_they_were_made_and_the_counter_borrows_from_the_next() -> None:
    ids = Uuid7()
    made = [ids.make(1_764_300_000_000) for _ in range(5000)]
    assert made == sorted(set(made))
    assert all(re.match(UUID_PATTERN, each) and each[14] == "7" and each[19] in "89ab" for each in made)
    stamps = [int(each[:8] + each[9:13], 16) - 1_764_300_000_000 for each in made]
    assert (stamps[0], stamps[4095], stamps[4096]) == (0, 0, 1)
    assert ids.make(1_764_299_999_000) > made[-1]  # a clock that steps back
    assert len({each[20:] for each in made}) == len(made)


def test_an_id_names_its_partition() -> None:
    assert partition_of(new_id(63)) == 63


FORK = """
import os, sys
from penstock.ids import Uuid7
ids = Uuid7()
ids.make(1)
child = os.fork()
drawn = [ids.make(1)[19:] for _ in range(300)]
if child:
    os.waitpid(child, 0)
print(*drawn, flush=True)
"""


def test_a_forked_process_draws_its_own_chance() -> None:
    told = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    drawn = told.stdout.split()
    assert len(drawn) == len(set(drawn)) == 600
