"""Cosines of user states and item rows: fast ones by block, exact ones by pair.

Shapes: B users, I items, H hidden size, P pairs. A matrix product gives the cosine of one pair in
another last bit when the block has another shape, so equal items would tie or not by chance. Here
the product only narrows the candidates down, within a bound on its error; what decides is the
cosine of the pair alone, summed in float64, which no other pair has a part in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from r2ec.retrieval.precision import full_float32

# Scores that are held at once: what stays in a CPU's cache until it is looked at, what keeps a GPU
# busy. Of many users so many go at once that the rows of a block are read once for them.
_SCORES_ON_CPU = 1 << 20
_SCORES_ON_DEVICE = 1 << 27
_USERS_AT_ONCE = 1024
# Elements of pairs that are multiplied at once, in float64.
_EXACT_ON_CPU = 1 << 17
_EXACT_ON_DEVICE = 1 << 24
_SMALLEST_NORM = 1e-30
_ONEDNN: Any = (  # None where this PyTorch has none
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available()
    else None
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CosineBlock:
    """Cosines [b, n] in float32 of users `first_user …` and items `first_item …`; -inf: masked."""

    first_user: int
    first_item: int
    cosines: Tensor


def cosine_error_bound(hidden_size: int) -> float:
    """How far a block's cosine may be from the exact one: a float32 sum of H products."""
    return (hidden_size + 16) * 2.0**-24


def iter_cosine_blocks(
    user_states_BH: Tensor,
    item_embeddings_IH: Tensor,
    *,
    block_items: int | None = None,
    masked: tuple[Tensor, Tensor] | None = None,
    allowed_I: Tensor | None = None,
) -> Iterator[CosineBlock]:
    """All cosines, a block of items and of users at a time; masked ones are -inf.

    `masked` holds pairs (user [P], item [P]) sorted by item. Without `block_items` a block has as
    many items as its scores leave room for. A block may be overwritten by the next one. The item
    rows may lie on another device than the users, such as a memory map on the CPU.
    Raises `ValueError` where an item's row is not finite.
    """
    num_users, num_items = user_states_BH.shape[0], item_embeddings_IH.shape[0]
    users_BH, device = _unit_rows(user_states_BH), user_states_BH.device
    at_once = _SCORES_ON_CPU if device.type == "cpu" else _SCORES_ON_DEVICE
    block_items = min(num_items, block_items or at_once // max(1, min(num_users, _USERS_AT_ONCE)))
    block_users = max(1, min(num_users, at_once // max(1, block_items)))
    by_onednn = device.type == "cpu" and _ONEDNN is not None
    buffer = None if by_onednn else users_BH.new_empty(block_users * block_items)
    masked_items = None if masked is None else masked[1].cpu()
    for first_item in range(0, num_items, block_items):
        rows_nH = item_embeddings_IH[first_item : first_item + block_items].to(device).float()
        length_n = rows_nH.norm(dim=1)
        _require_finite(length_n, "item", first_item)
        scale_n = length_n.clamp(min=_SMALLEST_NORM).reciprocal()
        scale_first = num_users > rows_nH.shape[1]  # the rows are less than the cosines
        if scale_first:
            rows_nH = rows_nH * scale_n[:, None]
        if allowed_I is not None:
            barred_n = ~allowed_I[first_item : first_item + block_items].to(device)
        if masked is not None and masked_items is not None:
            borders = torch.tensor([first_item, first_item + rows_nH.shape[0]])
            low, high = torch.searchsorted(masked_items, borders).tolist()
            masked_users, masked_columns = masked[0][low:high], masked[1][low:high] - first_item
        for first_user in range(0, num_users, block_users):
            states_bH = users_BH[first_user : first_user + block_users]
            with full_float32(device):
                cosines = _dot_products(states_bH, rows_nH, buffer)
            if not scale_first:
                cosines.mul_(scale_n)
            if allowed_I is not None:
                cosines.masked_fill_(barred_n, -torch.inf)
            if masked is not None:
                here = (masked_users >= first_user) & (masked_users < first_user + block_users)
                cosines[masked_users[here] - first_user, masked_columns[here]] = -torch.inf
            yield CosineBlock(first_user=first_user, first_item=first_item, cosines=cosines)


def exact_cosines(
    user_states_BH: Tensor, item_embeddings_IH: Tensor, user_P: Tensor, item_P: Tensor
) -> Tensor:
    """Cosines [P] in float64 of the pairs, each from its own two rows alone."""
    hidden_size, device = user_states_BH.shape[1], user_P.device
    states_BH = user_states_BH.double()
    length_B = torch.linalg.vector_norm(states_BH, dim=1)
    step = max(1, (_EXACT_ON_CPU if device.type == "cpu" else _EXACT_ON_DEVICE) // hidden_size)
    dot_P = torch.empty(user_P.shape[0], dtype=torch.float64, device=device)
    length_P = torch.empty_like(dot_P)
    for start in range(0, user_P.shape[0], step):
        users, items = user_P[start : start + step], item_P[start : start + step]
        count = users.shape[0]
        if device.type != "cpu":
            # A GPU sums in an order that depends on the number of rows: keep it the same.
            users = torch.nn.functional.pad(users, (0, step - count))
            items = torch.nn.functional.pad(items, (0, step - count))
        rows = item_embeddings_IH.index_select(0, items.to(item_embeddings_IH.device))
        rows = rows.to(device).double()
        length_P[start : start + step] = torch.linalg.vector_norm(rows, dim=1)[:count]
        products = rows.mul_(states_BH.index_select(0, users))
        dot_P[start : start + step] = products.sum(dim=1)[:count]
    result_P: Tensor = dot_P / (length_P * length_B[user_P]).clamp(min=_SMALLEST_NORM)
    return result_P


def exact_list_cosines(
    user_states_BH: Tensor, item_embeddings_IH: Tensor, item_BM: Tensor
) -> Tensor:
    """Cosines [B, M] in float64 of each user with M items: those of `exact_cosines`, to the bit."""
    (num_users, length), hidden_size = item_BM.shape, user_states_BH.shape[1]
    if item_BM.device.type != "cpu":
        user_P = torch.arange(num_users, device=item_BM.device).repeat_interleave(length)
        pairs_P = exact_cosines(user_states_BH, item_embeddings_IH, user_P, item_BM.flatten())
        return pairs_P.view(num_users, length)
    states_BH = user_states_BH.double()
    length_B = torch.linalg.vector_norm(states_BH, dim=1)
    dot_BM, length_BM = torch.empty(2, num_users, length, dtype=torch.float64).unbind()
    step = max(1, _EXACT_ON_CPU // (max(1, length) * hidden_size))
    for first in range(0, num_users, step):
        users = slice(first, first + step)
        item_bM = item_BM[users]
        rows_PH = item_embeddings_IH.index_select(0, item_bM.flatten()).double()
        length_BM[users] = torch.linalg.vector_norm(rows_PH, dim=1).view(item_bM.shape)
        # The states are not copied for each pair.
        rows_PH.view(*item_bM.shape, hidden_size).mul_(states_BH[users, None])
        dot_BM[users] = rows_PH.sum(dim=1).view(item_bM.shape)
    result_BM: Tensor = dot_BM / (length_BM * length_B[:, None]).clamp(min=_SMALLEST_NORM)
    return result_BM


def seen_pairs(
    seen: Sequence[Sequence[int]], *, num_users: int, num_items: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pairs (user [P], item [P]) of the seen items, sorted by item.

    Raises `ValueError` when there is not one list per user or an item is not in the catalog.
    """
    if len(seen) != num_users:
        raise ValueError(f"{len(seen)} lists of seen items for {num_users} users")
    pairs = sorted({(int(item), user) for user, items in enumerate(seen) for item in items})
    if pairs and not 0 <= pairs[0][0] <= pairs[-1][0] < num_items:
        wrong = pairs[0] if pairs[0][0] < 0 else pairs[-1]
        raise ValueError(
            f"seen item_index {wrong[0]} of user row {wrong[1]} is not in a catalog of "
            f"{num_items} items: history and embeddings are of different catalog versions"
        )
    flat = torch.tensor(pairs, dtype=torch.int64, device=device).reshape(-1, 2)
    return flat[:, 1].contiguous(), flat[:, 0].contiguous()


def require_states(user_states_BH: Tensor, item_embeddings_IH: Tensor) -> None:
    """Raise `ValueError` unless the shapes fit, the catalog has rows and the states are finite."""
    shapes = tuple(user_states_BH.shape), tuple(item_embeddings_IH.shape)
    if user_states_BH.ndim != 2 or item_embeddings_IH.ndim != 2 or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"user states {shapes[0]} and item embeddings {shapes[1]} do not fit")
    if not shapes[1][0]:
        raise ValueError("the catalog has no item embeddings: nothing can be ranked")
    _require_finite(user_states_BH.double().norm(dim=1), "user", 0)


def _dot_products(states_bH: Tensor, rows_nH: Tensor, buffer: Tensor | None) -> Tensor:
    """Each state with each row, [b, n] in float32, in the buffer; without one by oneDNN.

    MKL, which `torch.mm` calls on a CPU, leaves half of what a processor of another maker can do
    (docs/LOG.md).
    """
    if buffer is None:
        product_bn: Tensor = _ONEDNN(states_bH, rows_nH, None, "none", [], "")
        return product_bn
    shape = (states_bH.shape[0], rows_nH.shape[0])
    return torch.mm(states_bH, rows_nH.T, out=buffer[: shape[0] * shape[1]].view(shape))


def _unit_rows(rows: Tensor) -> Tensor:
    rows = rows.float()
    lengths: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / lengths.clamp(min=_SMALLEST_NORM)


def _require_finite(lengths: Tensor, what: str, first: int) -> None:
    finite = lengths.isfinite()
    if not bool(finite.all()):
        row = first + int((~finite).nonzero()[0])
        raise ValueError(f"the embedding of {what} row {row} is not finite: it cannot be ranked")
