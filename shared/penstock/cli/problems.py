"""What a command tells the person in one line instead of a traceback."""

from penstock.local.problems import Problem

__all__ = ["Problem", "UsageProblem"]


class UsageProblem(Problem):
    """It was asked wrongly: exit code 2."""

    exit_code = 2
