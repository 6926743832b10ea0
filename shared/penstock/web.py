"""The web framework and server (Starlette, uvicorn) that the console's files and the HTTP gateway are served with."""

from importlib.util import find_spec


def installed(*others: str) -> bool:
    """Return whether both, and `others`, are there: they come with the extras `console` and `gateway`."""
    return all(find_spec(name) for name in ("starlette", "uvicorn", *others))
