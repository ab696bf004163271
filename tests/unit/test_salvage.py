"""One failing row among others."""

from collections.abc import Sequence

import pytest
import torch

from r2ec.errors import UsageError
from r2ec.infer.salvage import Failure, each_or_failure


def test_failing_rows_are_found_and_the_others_keep_their_results_in_order() -> None:
    calls: list[int] = []

    def read_numbers(texts: Sequence[str]) -> list[int]:
        calls.append(len(texts))
        return [int(text) for text in texts]

    texts = [str(number) for number in range(64)]
    texts[5] = texts[41] = "poison"
    results = each_or_failure(texts, read_numbers)
    reason = "ValueError: invalid literal for int() with base 10: 'poison'"
    assert results == [Failure(reason) if n in (5, 41) else n for n in range(64)]
    assert len(calls) < 32, "by halves, not one by one"
    assert each_or_failure([], read_numbers) == []


def test_messages_for_people_stand_there_as_they_are() -> None:
    def refuse(rows: Sequence[int]) -> list[int]:
        raise UsageError("user 'u7': too long")

    assert each_or_failure([1], refuse) == [Failure("user 'u7': too long")]


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        OSError(28, "No space left"),
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_faults_of_the_machine_are_no_row_s_fault(fault: Exception) -> None:
    def fail(rows: Sequence[int]) -> list[int]:
        raise fault

    with pytest.raises(type(fault)):
        each_or_failure([1, 2], fail)
