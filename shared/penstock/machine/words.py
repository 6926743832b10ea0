"""Lists in sentences."""

from collections.abc import Sequence
from typing import Final

NAMED: Final = 10
"""As many workers, parents or signals are named; the rest is counted."""


def some(phrases: Sequence[str], count: int, glue: str = ", ") -> str:
    """The first of them, and how many more there are."""
    shown = glue.join(phrases[:NAMED])
    more = count - min(len(phrases), NAMED)
    return f"{shown} and {more} more" if more > 0 else shown
