"""Reading the next part and writing the last one while a part is made. Memory: three parts."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The items in order; the next one is fetched in a thread while the caller has this one.

    What fetching raises is raised at its place in the order.
    """
    end = object()
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        following: Future[object] = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


class WriteBehind(Generic[Result]):
    """One piece of work at a time in a thread; the next one waits for it.

    However the block ends, the work in hand is done to its end.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "write-behind")
        self._in_hand: Future[Result] | None = None

    def __enter__(self) -> "WriteBehind[Result]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.result()
        finally:
            self._pool.shutdown()

    def submit(self, work: Callable[[], Result]) -> Result | None:
        """Begin; the result of the work before it, if there was any, or what it raised."""
        before = self.result()
        self._in_hand = self._pool.submit(work)
        return before

    def result(self) -> Result | None:
        """Wait for the work in hand: its result, once, or what it raised."""
        work, self._in_hand = self._in_hand, None
        return None if work is None else work.result()
