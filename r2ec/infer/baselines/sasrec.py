"""SASRec: self-attention over item ids (Kang and McAuley 2018), trained on the whole softmax.

One learned row an item is both its input and its output; the state at each place predicts the item
at the next one. The loss is a softmax over all items (over a draw of them in large catalogs), which
does better than the paper's one negative; early stopping by N@10 on the valid split.

Shapes: B users, L places, I items, H hidden size.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from r2ec.errors import UsageError
from r2ec.infer.baselines.sequences import UserSequence
from r2ec.logs import get_logger
from r2ec.metrics import ndcg_at_k
from r2ec.storage import Warehouse
from r2ec.tables import Example

_LOG = get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SasrecSettings:
    """Shape and training; chosen on the valid splits of the sample shop and of Amazon Office."""

    hidden_size: int = 64
    num_blocks: int = 2
    num_heads: int = 2
    dropout: float = 0.5
    length: int = 20
    batch_users: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-4
    max_epochs: int = 300
    patience: int = 5
    eval_every: int = 5
    whole_softmax_items: int = 20_000
    seed: int = 0


class Sasrec(nn.Module):
    """Item rows (row I is padding), places, and causal attention blocks."""

    def __init__(self, num_items: int, settings: SasrecSettings) -> None:
        super().__init__()
        self.num_items = num_items
        self.items = nn.Embedding(num_items + 1, settings.hidden_size, padding_idx=num_items)
        self.places = nn.Embedding(settings.length, settings.hidden_size)
        nn.init.normal_(self.items.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)
        block = nn.TransformerEncoderLayer(
            settings.hidden_size,
            settings.num_heads,
            dim_feedforward=settings.hidden_size,
            dropout=settings.dropout,
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(block, settings.num_blocks, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(settings.hidden_size)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, items_BL: Tensor) -> Tensor:
        """States (B, L, H); rows are padded at the left with item I."""
        length = items_BL.shape[1]
        # Places count from the end, so that the latest item always has the same one.
        places_L = torch.arange(length - 1, -1, -1, device=items_BL.device)
        hidden_BLH = self.items(items_BL) * math.sqrt(self.items.embedding_dim)
        hidden_BLH = self.dropout(hidden_BLH + self.places(places_L))
        causal_LL = torch.ones(length, length, dtype=torch.bool, device=items_BL.device).triu(1)
        padding_BL = items_BL == self.num_items
        # A padded place sees itself, so that no row of the softmax is empty.
        hidden = torch.eye(length, dtype=torch.bool, device=items_BL.device)
        mask_BLL = (causal_LL | padding_BL.unsqueeze(1)) & ~hidden
        heads = self.blocks.layers[0].self_attn.num_heads
        mask = mask_BLL.repeat_interleave(heads, dim=0)
        states: Tensor = self.norm(self.blocks(hidden_BLH, mask=mask))
        return states


def train_sasrec(
    sequences: Sequence[UserSequence],
    valid: Sequence[Example],
    num_items: int,
    settings: SasrecSettings,
) -> Sasrec:
    """Train on the sequences, stop by N@10 on `valid`, return the best weights.

    Seeded: the same input gives the same model on one machine. Raises `ValueError` where no
    sequence has two items or `valid` is empty.
    """
    rows = [sequence.items for sequence in sequences if len(sequence.items) > 1]
    if not rows or not valid:
        raise ValueError("SASRec needs training sequences of two items or more, and a valid split")
    torch.manual_seed(settings.seed)
    model = Sasrec(num_items, settings)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    source = torch.Generator().manual_seed(settings.seed)
    best, best_weights, since_best = -1.0, copy.deepcopy(model.state_dict()), 0
    for epoch in range(1, settings.max_epochs + 1):
        model.train()
        order = torch.randperm(len(rows), generator=source).tolist()
        for start in range(0, len(order), settings.batch_users):
            batch = [rows[row] for row in order[start : start + settings.batch_users]]
            loss = _loss(model, batch, settings, source)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % settings.eval_every:
            continue
        value = float(ndcg_at_k(sasrec_ranks(model, valid, settings), 10).mean())
        since_best += 1
        if value > best:
            best, since_best = value, 0
            best_weights = copy.deepcopy(model.state_dict())
        _LOG.info("sasrec epoch %d: loss %.4f, valid N@10 %.4f", epoch, loss.item(), value)
        if since_best >= settings.patience:
            break
    model.load_state_dict(best_weights)
    return model.eval()


def kept_sasrec(
    file: str | None,
    warehouse: Warehouse,
    train: Callable[[], Sasrec],
    num_items: int,
    settings: SasrecSettings,
) -> Sasrec:
    """The model in `file` if it is there, else the trained one, which is then kept in it.

    Raises `UsageError` where the file holds a model of other settings or another warehouse.
    """
    made_from = {"warehouse": warehouse.root, "num_items": num_items} | asdict(settings)
    if file is None:
        return train()
    if Path(file).exists():
        kept = torch.load(file, weights_only=True)
        if kept["made_from"] != made_from:
            raise UsageError(
                f"{file} holds a SASRec of {kept['made_from']}, not of {made_from}: name another"
                " file, or remove it"
            )
        model = Sasrec(num_items, settings)
        model.load_state_dict(kept["weights"])
        return model.eval()
    model = train()
    torch.save({"made_from": made_from, "weights": model.state_dict()}, file)
    return model


@torch.no_grad()
def sasrec_ranks(
    model: Sasrec, examples: Sequence[Example], settings: SasrecSettings, batch_users: int = 256
) -> NDArray[np.int64]:
    """Rank of each target (from 1), ties worst; seen items don't compete, a target always does."""
    model.eval()
    ranks: list[int] = []
    for start in range(0, len(examples), batch_users):
        batch = examples[start : start + batch_users]
        items_BL = _padded([list(e.history.item_index) for e in batch], model, settings.length)
        scores_BI = model(items_BL)[:, -1] @ model.items.weight[:-1].T
        target_B = torch.tensor([example.target_index for example in batch])
        target_score_B1 = scores_BI.gather(1, target_B.unsqueeze(1))
        for row, example in enumerate(batch):
            scores_BI[row, list(example.history.item_index)] = -torch.inf
        scores_BI.scatter_(1, target_B.unsqueeze(1), target_score_B1)
        ranks += (scores_BI >= target_score_B1).sum(dim=1).tolist()
    return np.array(ranks, dtype=np.int64)


def _padded(rows: Sequence[list[int]], model: Sasrec, length: int) -> Tensor:
    kept = [row[-length:] for row in rows]
    longest = max(1, max(len(row) for row in kept))
    return torch.tensor([[model.num_items] * (longest - len(row)) + row for row in kept])


def _loss(
    model: Sasrec, batch: Sequence[list[int]], settings: SasrecSettings, source: torch.Generator
) -> Tensor:
    """Mean cross-entropy of the next item at every place."""
    rows = [row[-settings.length - 1 :] for row in batch]
    items_BL = _padded([row[:-1] for row in rows], model, settings.length)
    targets_BL = _padded([row[1:] for row in rows], model, settings.length)
    real_BL = items_BL != model.num_items
    states_TH, target_T = model(items_BL)[real_BL], targets_BL[real_BL]
    if model.num_items <= settings.whole_softmax_items:
        return F.cross_entropy(states_TH @ model.items.weight[:-1].T, target_T)
    drawn = torch.randint(model.num_items, (settings.whole_softmax_items,), generator=source)
    candidates, column = torch.unique(torch.cat([target_T, drawn]), return_inverse=True)
    return F.cross_entropy(states_TH @ model.items(candidates).T, column[: len(target_T)])
