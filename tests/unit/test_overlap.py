"""Reading ahead and writing behind: in order, one at a time, nothing lost."""

import threading
from collections.abc import Iterator

import pytest

from r2ec.infer.overlap import WriteBehind, read_ahead


def test_the_next_item_is_fetched_while_this_one_is_worked_on() -> None:
    fetched = threading.Semaphore(0)
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(4):
            taken.append(number)
            fetched.release()
            yield number

    seen = []
    for number in read_ahead(items()):
        seen.append(number)
        if number < 3:
            # Without reading ahead this waits in vain; reading further ahead, more is taken.
            for _ in range(2 if number == 0 else 1):
                assert fetched.acquire(timeout=10)
            assert taken == list(range(number + 2))
    assert seen == [0, 1, 2, 3]


def test_what_fetching_raises_comes_at_its_place() -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise ValueError("the third")

    reading = read_ahead(items())
    assert [next(reading), next(reading)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(reading)


def test_nothing_is_fetched_after_the_reader_left() -> None:
    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    taken: list[int] = []
    reading = read_ahead(items())
    assert next(reading) == 0
    reading.close()
    threads = [thread.name for thread in threading.enumerate()]
    assert taken == [0, 1]
    assert not [name for name in threads if name.startswith("read-ahead")]


def test_work_goes_on_behind_one_piece_at_a_time() -> None:
    may_end = threading.Event()
    done: list[str] = []

    def work(name: str) -> str:
        assert may_end.wait(10)
        done.append(name)
        return name

    with WriteBehind[str]() as writing:
        assert writing.submit(lambda: work("a")) is None
        assert done == []
        may_end.set()
        assert writing.submit(lambda: work("b")) == "a"
        assert writing.result() == "b"
        assert writing.result() is None
    assert done == ["a", "b"]


def test_the_work_in_hand_is_done_when_another_thing_fails() -> None:
    done: list[int] = []

    def work() -> None:
        with WriteBehind[None]() as writing:
            writing.submit(lambda: done.append(1))
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert done == [1]


@pytest.mark.parametrize("ending", ["submit", "result", "leave"])
def test_what_the_work_raises_is_raised(ending: str) -> None:
    def fail() -> None:
        raise OSError("no room")

    def work() -> None:
        with WriteBehind[None]() as writing:
            writing.submit(fail)
            if ending == "submit":
                writing.submit(lambda: None)
            elif ending == "result":
                writing.result()

    with pytest.raises(OSError, match="no room"):
        work()
