"""NATS' rule for permissions: whether a subject, or all that a wildcard covers, is within what is allowed."""

from collections.abc import Iterable


def covers(pattern: str, subject: str) -> bool:
    """Return whether `pattern` covers all of `subject`, which may have wildcards itself."""
    allowed, asked = pattern.split("."), subject.split(".")
    for place, token in enumerate(allowed):
        if token == ">":
            return len(asked) > place
        if place >= len(asked) or asked[place] == ">" or (token != "*" and token != asked[place]):
            return False
    return len(asked) == len(allowed)


def allow(patterns: Iterable[str], subject: str) -> bool:
    return any(covers(pattern, subject) for pattern in patterns)
