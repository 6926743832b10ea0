"""Which kinds of work a worker takes: by name, or by a prefix such as `mail.*` (as in lua/queue/profiles.lua)."""

from collections.abc import Sequence


def takes(kinds: Sequence[str] | None, kind: str) -> bool:
    """Return whether a worker that takes `kinds` (None: all) takes work of `kind`.

    >>> takes(["mail.*", "pay"], "mail.send"), takes(["mail.*", "pay"], "mail"), takes(None, "mail")
    (True, False, True)
    """
    if kinds is None or kind in kinds:
        return True
    return any(each.endswith(".*") and kind.startswith(each[:-1]) for each in kinds)
