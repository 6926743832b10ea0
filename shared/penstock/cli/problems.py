"""Errors that a command reports in one line instead of a traceback."""

from penstock.local.problems import Problem

__all__ = ["Problem", "UsageProblem"]


class UsageProblem(Problem):
    """The command was called with wrong arguments: exit code 2."""

    exit_code = 2
