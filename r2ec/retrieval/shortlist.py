"""The best candidates of each user, kept while blocks of cosines go by.

Once a user has enough of them, the least one kept is the bar that a newcomer has to pass, and few
do: a block is read once, for the maxima of its groups of columns, and only groups above the bar are
looked into. What passes waits in a spare room beside the list; a full room is merged into it, which
raises the bar.

Shapes: B users, b users of a block, n items of a block, M places, G groups, P candidates.
"""

from math import isqrt

import torch
from torch import Tensor

from r2ec.retrieval.cosine import CosineBlock

Candidates = tuple[Tensor, Tensor]  # values and item indices, of one shape

_GROUP = 8  # columns whose maximum is compared with the bar before they are


class Shortlist:
    """The `kept` largest cosines of each of B users among the blocks given to `take`.

    Each block is given once. No item that was not kept has a cosine above the least one kept.
    """

    def __init__(self, num_users: int, kept: int, device: torch.device) -> None:
        self._kept = kept
        self._value_BM = torch.full((num_users, 2 * kept), -torch.inf, device=device)
        self._item_BM = torch.zeros(num_users, 2 * kept, dtype=torch.int64, device=device)
        self._bar_B = torch.full((num_users,), -torch.inf, device=device)
        self._waiting_B = torch.zeros(num_users, dtype=torch.int64, device=device)
        self._begun: set[int] = set()

    def take(self, block: CosineBlock) -> None:
        """Look at a block; its buffer may be overwritten afterwards."""
        users = slice(block.first_user, block.first_user + block.cosines.shape[0])
        found = self._above_bar(block, users) if block.first_user in self._begun else None
        self._begun.add(block.first_user)
        if found is None or not self._put(users, *found):
            values_bm, column_bm = best_of_block(block.cosines, self._kept)
            self._merge(users, (values_bm, column_bm + block.first_item))

    def result(self) -> Candidates:
        """Cosines and items [B, kept] in no order; a place that is left over has -inf, item 0."""
        self._merge(slice(None))
        cosines_BM, item_BM = self._value_BM[:, : self._kept], self._item_BM[:, : self._kept]
        return cosines_BM, item_BM.masked_fill(cosines_BM == -torch.inf, 0)

    def _above_bar(self, block: CosineBlock, users: slice) -> tuple[Tensor, Tensor, Tensor] | None:
        """User [P] of the block, item [P] and cosine [P] of all above the bar, by user.

        None where there are so many that the whole block is better looked at.
        """
        bar_b, cosines_bn = self._bar_B[users], block.cosines
        num_groups = cosines_bn.shape[1] // _GROUP
        whole = num_groups * _GROUP
        grouped_bmg = cosines_bn[:, :whole].unflatten(1, (_GROUP, num_groups))
        user_G, group_G = (grouped_bmg.amax(dim=1) > bar_b[:, None]).nonzero(as_tuple=True)
        if user_G.numel() > self._kept * bar_b.numel():
            return None
        value_Gm = grouped_bmg[user_G, :, group_G]
        found_P, member_P = (value_Gm > bar_b[user_G, None]).nonzero(as_tuple=True)
        user_P, value_P = user_G[found_P], value_Gm[found_P, member_P]
        column_P = member_P * num_groups + group_G[found_P]
        if whole < cosines_bn.shape[1]:
            rest_user_P, rest_P = (cosines_bn[:, whole:] > bar_b[:, None]).nonzero(as_tuple=True)
            user_P, order_P = torch.cat([user_P, rest_user_P]).sort()
            value_P = torch.cat([value_P, cosines_bn[rest_user_P, rest_P + whole]])[order_P]
            column_P = torch.cat([column_P, rest_P + whole])[order_P]
        return user_P, column_P + block.first_item, value_P

    def _put(self, users: slice, user_P: Tensor, item_P: Tensor, value_P: Tensor) -> bool:
        """Let candidates wait in the spare room; false where one user has too many for it."""
        count_b = torch.bincount(user_P, minlength=self._bar_B[users].numel())
        most, fullest = int(count_b.max()), int((count_b + self._waiting_B[users]).max())
        if most > self._kept:
            return False
        if fullest > self._kept:
            self._merge(users)
        first_b = self._kept + self._waiting_B[users] - (count_b.cumsum(0) - count_b)
        place_P = torch.arange(user_P.numel(), device=user_P.device) + first_b[user_P]
        self._value_BM[users][user_P, place_P] = value_P
        self._item_BM[users][user_P, place_P] = item_P
        self._waiting_B[users] += count_b
        return True

    def _merge(self, users: slice, more: Candidates | None = None) -> None:
        """Keep the best of list, spare room and `more`; empties the room and sets the bar."""
        value_bm, item_bm = self._value_BM[users], self._item_BM[users]
        if more is not None:
            value_bm = torch.cat([value_bm, more[0]], dim=1)
            item_bm = torch.cat([item_bm, more[1]], dim=1)
        best = value_bm.topk(self._kept, dim=1, sorted=False)
        self._item_BM[users, : self._kept] = item_bm.gather(1, best.indices)
        self._value_BM[users, : self._kept] = best.values
        self._value_BM[users, self._kept :] = -torch.inf
        self._bar_B[users] = best.values.amin(dim=1)
        self._waiting_B[users] = 0


def best_of_block(cosines_bn: Tensor, kept: int) -> Candidates:
    """The `kept` largest of each row (all, where there are fewer) and their columns.

    The groups of columns with the largest maxima hold them all.
    """
    num_columns = cosines_bn.shape[1]
    size = isqrt(num_columns // kept)
    if size < 2:
        best = cosines_bn.topk(min(kept, num_columns), sorted=False)
        return best.values, best.indices
    num_groups = num_columns // size
    whole = num_groups * size
    maxima_bg = cosines_bn[:, :whole].unflatten(1, (size, num_groups)).amax(dim=1)
    group_bm = maxima_bg.topk(kept, sorted=False).indices
    members = torch.arange(0, whole, num_groups, device=group_bm.device)
    rest = torch.arange(whole, num_columns, device=group_bm.device)
    column_bm = torch.cat(
        [(group_bm[:, :, None] + members).flatten(1), rest.expand(group_bm.shape[0], -1)], dim=1
    )
    best = cosines_bn.gather(1, column_bm).topk(kept, sorted=False)
    return best.values, column_bm.gather(1, best.indices)
