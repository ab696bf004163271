"""The running merge keeps the best of each user, in whatever order blocks bring them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r2ec.retrieval.cosine import CosineBlock
from r2ec.retrieval.shortlist import Shortlist, best_of_block

ORDERS = ("random", "rising", "falling", "equal", "masked")


def cosines_of(order: str, num_users: int, num_items: int, seed: int) -> torch.Tensor:
    values_BI = torch.rand(num_users, num_items, generator=torch.Generator().manual_seed(seed))
    if order == "rising":  # every block beats all before it: nothing waits, all is merged
        return values_BI.sort(dim=1).values
    if order == "falling":
        return values_BI.sort(dim=1, descending=True).values
    if order == "equal":
        return values_BI.round(decimals=1)
    if order == "masked":
        return values_BI.masked_fill(values_BI < 0.95, -torch.inf)
    return values_BI


@settings(max_examples=60, deadline=None)
@given(
    order=st.sampled_from(ORDERS),
    num_items=st.integers(1, 400),
    kept=st.integers(1, 40),
    block_items=st.integers(1, 150),
    block_users=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
def test_the_shortlist_is_the_largest_of_each_row(
    order: str, num_items: int, kept: int, block_items: int, block_users: int, seed: int
) -> None:
    num_users = 7
    cosines_BI = cosines_of(order, num_users, num_items, seed)
    shortlist = Shortlist(num_users, kept, torch.device("cpu"))
    for first_user in range(0, num_users, block_users):
        for first_item in range(0, num_items, block_items):
            part = cosines_BI[
                first_user : first_user + block_users, first_item : first_item + block_items
            ].clone()
            shortlist.take(CosineBlock(first_user=first_user, first_item=first_item, cosines=part))
            part.fill_(torch.nan)  # the buffer is used again
    values_BM, item_BM = shortlist.result()
    assert values_BM.shape == item_BM.shape == (num_users, kept)
    best_BM = cosines_BI.topk(min(kept, num_items), dim=1).values
    assert torch.equal(
        values_BM.sort(dim=1, descending=True).values[:, : best_BM.shape[1]], best_BM
    )
    there_BM = values_BM > -torch.inf
    assert torch.equal(cosines_BI.gather(1, item_BM)[there_BM], values_BM[there_BM])
    for user in range(num_users):
        items = item_BM[user][there_BM[user]].tolist()
        assert len(items) == len(set(items))


@pytest.mark.parametrize("num_columns", [1, 5, 64, 1000, 4097])
@pytest.mark.parametrize("kept", [1, 7, 100])
def test_the_groups_with_the_largest_maxima_hold_the_largest(num_columns: int, kept: int) -> None:
    cosines_bn = cosines_of("random", 5, num_columns, 0)
    values_bm, column_bm = best_of_block(cosines_bn, kept)
    assert torch.equal(cosines_bn.gather(1, column_bm), values_bm)
    expected = cosines_bn.topk(min(kept, num_columns), dim=1).values
    assert torch.equal(values_bm.sort(dim=1, descending=True).values, expected)
