"""What the checker has found: problems, and how much it has looked at."""

from collections import Counter
from typing import NamedTuple


class Problem(NamedTuple):
    """A broken promise. kind: a fixed word for each promise; subject: the id of the entity."""

    kind: str
    subject: str
    text: str


class Findings:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.counts: Counter[str] = Counter()

    def report(self, kind: str, subject: str, text: str) -> None:
        self.problems.append(Problem(kind, subject, text))

    @property
    def kinds(self) -> set[str]:
        return {problem.kind for problem in self.problems}
