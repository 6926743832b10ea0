"""`Operation`: a durable call that was made, and runs when it is awaited."""

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Operation(Generic[T_co]):
    """One durable call. It runs when it is awaited, or given to `task.parallel` or `task.first`; once.

    `key` is its entry's key in the journal. `named` says that the caller gave no key of its own.
    """

    __slots__ = ("_start", "bare", "key", "named")

    def __init__(
        self,
        key: str,
        start: Callable[[], Coroutine[Any, Any, T_co]],
        *,
        named: bool = True,
        bare: bool = False,
    ) -> None:
        self.key = key
        self.named = named
        # It only waits: nothing in the handler is to be done when it has ended, unless all beside it have.
        self.bare = bare
        self._start: Callable[[], Coroutine[Any, Any, T_co]] | None = start

    def begin(self) -> Coroutine[Any, Any, T_co]:
        """Return the coroutine that runs this call. Raise `RuntimeError` at the second time."""
        start, self._start = self._start, None
        if start is None:
            raise RuntimeError(f"{self.key} was awaited before: keep its result in a variable")
        return start()

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.begin().__await__()

    def __repr__(self) -> str:
        return f"<Operation {self.key}>"
