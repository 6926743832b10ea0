"""What a command tells the person in one line instead of a traceback."""


class Problem(Exception):
    """It did not work: exit code 1."""

    exit_code = 1


class UsageProblem(Problem):
    """It was asked wrongly: exit code 2."""

    exit_code = 2
