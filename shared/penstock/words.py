"""Lists for use in sentences."""

from collections.abc import Sequence
from typing import Final

NAMED: Final = 10
"""At most this many workers, parents or signals are named; the others are only counted."""


def some(phrases: Sequence[str], count: int, glue: str = ", ") -> str:
    """Join the first NAMED phrases, and say how many more of `count` there are."""
    shown = glue.join(phrases[:NAMED])
    more = count - min(len(phrases), NAMED)
    return f"{shown} and {more} more" if more > 0 else shown
