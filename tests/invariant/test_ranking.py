"""Invariant 6: blocked top-k equals a full sort; seen items absent; ties by item_index."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from r2ec.retrieval import cosine
from r2ec.retrieval.cosine import (
    cosine_error_bound,
    exact_cosines,
    exact_list_cosines,
    iter_cosine_blocks,
)
from r2ec.retrieval.rank import target_ranks, target_softmax, top_k

TAU = 0.02


def full_sort_scores(users: Tensor, items: Tensor) -> np.ndarray:
    """Every score by the book: cosine in float64, divided by tau, rounded to float32."""
    left, right = users.double().numpy(), items.double().numpy()
    scores = np.empty((len(left), len(right)), dtype=np.float32)
    for user, state in enumerate(left):
        for item, row in enumerate(right):
            length = math.sqrt(math.fsum(state * state) * math.fsum(row * row))
            scores[user, item] = math.fsum(state * row) / max(length, 1e-30) / TAU
    return scores


def full_sort(scores: np.ndarray, barred: set[int]) -> list[tuple[int, float]]:
    """Items by descending score, equal ones by item index."""
    left = [item for item in range(len(scores)) if item not in barred]
    return [(item, scores[item]) for item in sorted(left, key=lambda i: (-scores[i], i))]


def random_rows(seed: int, count: int, hidden: int, dtype: torch.dtype) -> Tensor:
    """Rows of small integers: many equal ones, many equal cosines, zero rows among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, (count, hidden), generator=generator).to(dtype)


@st.composite
def shops(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[list[int]]]:
    """User states, item rows and seen items of a small shop with exact ties."""
    num_items = draw(st.integers(3, 90))
    num_users = draw(st.integers(1, 5))
    hidden = draw(st.integers(1, 5))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    seed = draw(st.integers(0, 2**31))
    one_list = st.lists(st.integers(0, num_items - 1), max_size=num_items + 2)
    seen = draw(st.lists(one_list, min_size=num_users, max_size=num_users))
    users = random_rows(seed, num_users, hidden, dtype)
    return users, random_rows(seed + 1, num_items, hidden, dtype), seen


@settings(max_examples=150, deadline=None)
@given(shop=shops(), k=st.integers(1, 120), block=st.integers(1, 100))
def test_blocked_top_k_equals_a_full_sort(
    shop: tuple[Tensor, Tensor, list[list[int]]], k: int, block: int
) -> None:
    users, items, seen = shop
    scores, indices = top_k(users, items, k, temperature=TAU, seen=seen, block_items=block)
    assert scores.shape == indices.shape == (len(users), k)
    assert scores.dtype == torch.float32
    every_score = full_sort_scores(users, items)
    for user in range(len(users)):
        expected = full_sort(every_score[user], set(seen[user]))[:k]
        found = indices[user].tolist()
        assert found[: len(expected)] == [item for item, _ in expected]
        assert scores[user, : len(expected)].tolist() == [score for _, score in expected]
        assert found[len(expected) :] == [-1] * (k - len(expected))
        assert scores[user, len(expected) :].tolist() == [-math.inf] * (k - len(expected))
        assert not set(found) & set(seen[user])


@settings(max_examples=100, deadline=None)
@given(shop=shops(), block=st.integers(1, 100), ties=st.sampled_from(["worst", "index"]))
def test_target_ranks_count_what_a_full_sort_shows(
    shop: tuple[Tensor, Tensor, list[list[int]]], block: int, ties: str
) -> None:
    users, items, seen = shop
    targets = torch.arange(len(users)) * 7 % len(items)
    ranks = target_ranks(
        users, items, targets, temperature=TAU, seen=seen, ties=ties, block_items=block
    )
    every_score = full_sort_scores(users, items)
    for user, target in enumerate(targets.tolist()):
        rivals = [i for i in range(len(items)) if i == target or i not in seen[user]]
        own = every_score[user, target]
        if ties == "worst":
            expected = sum(every_score[user, item] >= own for item in rivals)
        else:
            order = sorted(rivals, key=lambda i: (-every_score[user, i], i))
            expected = order.index(target) + 1
        assert ranks[user] == expected


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), block=st.integers(1, 3000))
@example(seed=0, block=1)
def test_equal_rows_tie_by_index_across_block_borders(seed: int, block: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(7, 33, generator=generator)
    kind = torch.randint(0, 7, (3000,), generator=generator)  # 3000 items, 7 different rows
    users = torch.randn(3, 33, generator=generator)
    block = max(block, 100)
    scores, indices = top_k(users, rows[kind], 50, temperature=TAU, block_items=block)
    for user in range(3):
        best = int((users[user] @ rows.T / rows.norm(dim=1)).argmax())
        assert indices[user].tolist() == (kind == best).nonzero().flatten()[:50].tolist()
        assert len(set(scores[user].tolist())) == 1


def test_scores_are_bit_identical_for_any_block_batch_and_place() -> None:
    generator = torch.Generator().manual_seed(3)
    users = torch.randn(37, 128, generator=generator)
    items = torch.randn(5001, 128, generator=generator)
    scores, indices = top_k(users, items, 20, temperature=TAU, block_items=5001)
    for block in (61, 64, 1000, 4999):
        again = top_k(users, items, 20, temperature=TAU, block_items=block)
        assert torch.equal(again[0], scores)
        assert torch.equal(again[1], indices)
    for user in (0, 17, 36):
        alone = top_k(users[user : user + 1], items, 20, temperature=TAU)
        assert torch.equal(alone[0][0], scores[user])
        assert torch.equal(alone[1][0], indices[user])


def test_large_catalogs_agree_with_a_full_sort() -> None:
    generator = torch.Generator().manual_seed(4)
    users = torch.randn(5, 64, generator=generator)
    items = torch.randn(40_000, 64, generator=generator).bfloat16()
    seen = [torch.randperm(40_000, generator=generator)[:20].tolist() for _ in range(5)]
    exact = (
        torch.nn.functional.normalize(users.double(), dim=1)
        @ torch.nn.functional.normalize(items.double(), dim=1).T
        / TAU
    )
    targets = torch.tensor([3, 1000, 16_384, 39_999, 7])
    own = exact.gather(1, targets[:, None])
    ranks = target_ranks(users, items, targets, temperature=TAU)
    assert ranks.tolist() == ((exact > own).sum(dim=1) + 1).tolist()
    for user, items_seen in enumerate(seen):
        exact[user, items_seen] = -math.inf
    for k in (1, 100, 1000):
        scores, indices = top_k(users, items, k, temperature=TAU, seen=seen)
        best = exact.topk(k, dim=1)
        assert torch.equal(indices, best.indices)
        assert torch.equal(scores, best.values.float())


def test_a_target_bought_before_is_still_ranked() -> None:
    items = torch.eye(3)
    users = torch.tensor([[1.0, 0.5, 0.1]])
    target = torch.tensor([1])
    for seen, rank in (([[0, 1]], 1), ([[1]], 2), (None, 2)):
        assert target_ranks(users, items, target, temperature=TAU, seen=seen).tolist() == [rank]


def test_allowed_items_bar_all_others_for_everybody() -> None:
    items, users = torch.eye(4), torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    allowed = torch.tensor([False, True, True, True])
    for block in (1, 3, 4):
        _, indices = top_k(
            users, items, 3, temperature=TAU, seen=[[1], []], allowed_I=allowed, block_items=block
        )
        assert indices.tolist() == [[2, 3, -1], [3, 2, 1]]


@pytest.mark.parametrize("block", [1, 2, 5, 100])
def test_the_softmax_at_the_target_is_that_of_the_whole_catalog(block: int) -> None:
    generator = torch.Generator().manual_seed(5)
    users, items = torch.randn(6, 8, generator=generator), torch.randn(100, 8, generator=generator)
    targets = torch.arange(6) * 9
    scores = torch.from_numpy(full_sort_scores(users, items)).double()
    expected = scores.softmax(dim=1).gather(1, targets[:, None]).flatten()
    found = target_softmax(users, items, targets, temperature=TAU, block_items=block)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-12)
    assert target_softmax(users[:1], items[:1], targets[:1], temperature=TAU).tolist() == [1.0]


@pytest.mark.parametrize("way", ["for all", "by backend"])
def test_a_reduced_matmul_precision_or_autocast_changes_nothing(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(6)
    users, items = (
        torch.randn(9, 96, generator=generator),
        torch.randn(900, 96, generator=generator),
    )
    expected = top_k(users, items, 10, temperature=TAU)
    multiply, backends = cosine._dot_products, (torch.backends.mkldnn, torch.backends.cuda.matmul)
    within: list[tuple[object, ...]] = []

    def watched(*given: Tensor) -> Tensor:
        precisions = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul
        found = (backend.fp32_precision for backend in precisions)
        within.append((*found, torch.is_autocast_enabled("cpu")))
        return multiply(*given)

    monkeypatch.setattr(cosine, "_dot_products", watched)
    torch.set_float32_matmul_precision("medium")
    if way == "by backend":
        for backend in backends:
            backend.fp32_precision = "tf32"
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = top_k(users, items, 10, temperature=TAU)
        after = [backend.fp32_precision for backend in backends]
    finally:
        for backend in backends:
            backend.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
    # Not every processor shows in its results what it was allowed to do.
    assert set(within) == {("ieee", "ieee", False)}
    assert way == "for all" or after == ["tf32", "tf32"]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    users=st.integers(0, 9),
    length=st.integers(0, 40),
    hidden=st.sampled_from([1, 7, 64, 1000]),
    at_once=st.sampled_from([1, 2000, 1 << 17]),
)
def test_the_cosines_of_a_list_are_those_of_its_pairs_to_the_bit(
    seed: int, users: int, length: int, hidden: int, at_once: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(users, hidden, generator=generator)
    items = torch.randn(50, hidden, generator=generator)
    item_BM = torch.randint(0, 50, (users, length), generator=generator)
    user_P = torch.arange(users).repeat_interleave(length)
    pairs = exact_cosines(states, items, user_P, item_BM.flatten())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cosine, "_EXACT_ON_CPU", at_once)
        found = exact_list_cosines(states, items, item_BM)
    assert torch.equal(found.flatten(), pairs)


def test_lists_are_the_same_by_whichever_library_the_products_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Equal rows and near ones among them; the product only narrows the candidates down."""
    generator = torch.Generator().manual_seed(8)
    users = torch.randn(40, 96, generator=generator)
    items = torch.randn(3000, 96, generator=generator)
    items[1500:] = items[:1500] * (1 + 1e-7 * torch.randn(1500, 1, generator=generator))
    by_onednn = top_k(users, items, 30, temperature=TAU)
    products: list[tuple[int, ...]] = []
    multiply = torch.mm

    def watched(*given: Tensor, out: Tensor) -> Tensor:
        products.append(tuple(out.shape))
        return multiply(*given, out=out)

    monkeypatch.setattr(cosine, "_ONEDNN", None)
    monkeypatch.setattr(torch, "mm", watched)
    by_mkl = top_k(users, items, 30, temperature=TAU)
    assert products
    assert all(torch.equal(a, b) for a, b in zip(by_onednn, by_mkl, strict=True))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), hidden=st.sampled_from([1, 7, 64, 1000]))
def test_a_block_cosine_lies_within_its_error_bound(seed: int, hidden: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(4, hidden, generator=generator) * 100
    items = torch.rand(300, hidden, generator=generator) + users[0] / 50
    exact = (
        torch.nn.functional.normalize(users.double(), dim=1)
        @ torch.nn.functional.normalize(items.double(), dim=1).T
    )
    for block in iter_cosine_blocks(users, items, block_items=77):
        here = exact[:, block.first_item : block.first_item + block.cosines.shape[1]]
        assert (block.cosines - here).abs().max() <= cosine_error_bound(hidden) / 2


class LargestTensor(TorchDispatchMode):
    """Watches every tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.num_elements = max(self.num_elements, tensor.untyped_storage().nbytes() // 4)
        return result


def test_no_tensor_is_as_large_as_users_times_items() -> None:
    generator = torch.Generator().manual_seed(7)
    users, items = (
        torch.randn(64, 8, generator=generator),
        torch.randn(30_000, 8, generator=generator),
    )
    targets, seen = torch.arange(64), [[item] for item in range(64)]
    items_before = items.numel()
    with LargestTensor() as largest:
        top_k(users, items, 10, temperature=TAU, seen=seen, block_items=1000)
        target_ranks(users, items, targets, temperature=TAU, seen=seen, block_items=1000)
        target_softmax(users, items, targets, temperature=TAU, block_items=1000)
    assert largest.num_elements <= max(items_before, 64 * 1000 * 2)
    assert largest.num_elements < 64 * 30_000 / 7


def test_wrong_use_is_refused_with_the_value() -> None:
    users, items = torch.ones(2, 3), torch.ones(4, 3)
    with pytest.raises(ValueError, match="item_index 4 of user row 1"):
        top_k(users, items, 1, temperature=TAU, seen=[[], [4]])
    with pytest.raises(ValueError, match="1 lists of seen items for 2 users"):
        top_k(users, items, 1, temperature=TAU, seen=[[]])
    with pytest.raises(ValueError, match="k=0"):
        top_k(users, items, 0, temperature=TAU)
    with pytest.raises(ValueError, match="temperature=0"):
        top_k(users, items, 1, temperature=0)
    with pytest.raises(ValueError, match="target item_index 9"):
        target_ranks(users, items, torch.tensor([0, 9]), temperature=TAU)
    with pytest.raises(ValueError, match="do not fit"):
        top_k(users, torch.ones(4, 2), 1, temperature=TAU)
    with pytest.raises(ValueError, match="no item embeddings"):
        top_k(users, torch.ones(0, 3), 1, temperature=TAU)
    poisoned = torch.ones(4, 3)
    poisoned[2, 1] = math.nan
    with pytest.raises(ValueError, match="item row 2 is not finite"):
        top_k(users, poisoned, 1, temperature=TAU)
    with pytest.raises(ValueError, match="user row 2 is not finite"):
        top_k(poisoned, items, 1, temperature=TAU)
    nobody = top_k(users[:0], items, 2, temperature=TAU)
    assert nobody[0].shape == nobody[1].shape == (0, 2)
