"""The contrastive stage: user states against the batch's target items, with the language kept.

InfoNCE over the targets of the global batch (duplicates of the target and the user's own history
left out), all item rows live. A share of the users carries a pretended reasoning between prompt and
marker, on which the language loss is computed: it keeps the base model's language and accustoms the
user state to stand after a reasoning. It is about the latest item or, as a rationale, about the
target: only where it says something that the prompt does not can a user state learn to heed it.

Shapes: B users of the global batch, C their target items, H hidden size.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from r2ec.catalog import Catalog
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.scratch import reasoning_ids
from r2ec.recpo import loss as terms
from r2ec.recpo.batches import cut
from r2ec.recpo.engine import Engine
from r2ec.recpo.finite import sum_finite
from r2ec.recpo.items import ItemTable, LiveRows
from r2ec.tables import Example, History
from r2ec.text.tokens import PromptEncoder, pad_right


@dataclass(frozen=True, kw_only=True, slots=True)
class UserRow:
    """One user's ids up to the marker; `first_language` is where the language loss starts."""

    example: Example
    ids: list[int]
    first_language: int

    @property
    def language_tokens(self) -> int:
        """Tokens that the language loss predicts."""
        return len(self.ids) - self.first_language


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastiveFigures:
    """This rank's share of the two losses and of the in-batch hits."""

    item_loss: float
    language_loss: float
    in_batch_hits: float


def build_user_row(
    encoder: PromptEncoder,
    catalog: Catalog,
    example: Example,
    *,
    seed: tuple[int, int],
    reasoning_share: float,
    rationale_share: float,
    history_dropout: float,
) -> UserRow:
    """One user's row, seeded by (seed, step) and the sequence, so any cut of the batch agrees."""
    source = random.Random(f"{seed[0]}/{seed[1]}/{example.sequence_id}")
    history = _thin(example.history, history_dropout, source)
    prompt = encoder.user_ids(history, catalog)
    if source.random() < reasoning_share:
        is_rationale = source.random() < rationale_share
        about = example.target_index if is_rationale else history.item_index[-1]
        ids = prompt + reasoning_ids(encoder, catalog.items[about])
        return UserRow(example=example, ids=ids, first_language=len(prompt))
    ids = prompt + list(encoder.marker_ids)
    return UserRow(example=example, ids=ids, first_language=len(ids))


def contrastive_step(
    engine: Engine,
    rows: Sequence[UserRow],
    targets_C: Sequence[int],
    table: ItemTable,
    *,
    language_tokens: int,
    lm_weight: float,
    micro_batch: int,
    lr: float,
    pad_id: int,
) -> tuple[ContrastiveFigures, float | None]:
    """One optimizer step; `rows` are this rank's, `targets_C` and `language_tokens` global.

    Raises `R2ecError` on all ranks before the step if the loss of any is not finite.
    """
    rows = sorted(rows, key=lambda row: len(row.ids))
    live = LiveRows(engine, table, targets_C)
    chunks = -(-engine.world.largest_share(len(targets_C)) // micro_batch)
    sums = torch.zeros(3, device=engine.model.device)
    for chunk in cut(range(len(rows)), micro_batch, chunks):
        batch = [rows[row] for row in chunk]
        item, language, hits = (
            _losses(engine.model, batch, live, pad_id)
            if batch
            else _no_losses(engine.model, pad_id)
        )
        item, language = item / len(targets_C), language / max(1, language_tokens)
        sums += torch.stack([item.detach(), language.detach(), hits / len(targets_C)])
        engine.backward(item + lm_weight * language)
    live.backward(micro_batch)
    what = "the contrastive loss (items, language, hits)"
    sums = sum_finite(engine.world, sums, what, [row.example for row in rows])
    item_loss, language_loss, in_batch_hits = sums.tolist()
    figures = ContrastiveFigures(
        item_loss=item_loss, language_loss=language_loss, in_batch_hits=in_batch_hits
    )
    return figures, engine.step(lr)


def _losses(
    model: DualHeadModel, rows: Sequence[UserRow], live: LiveRows, pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Summed item loss, summed language loss and number of in-batch hits of a micro-batch."""
    ids, mask = pad_right([row.ids for row in rows], pad_id)
    ids_BL = torch.tensor(ids, device=model.device)
    mask_BL = torch.tensor(mask, device=model.device)
    hidden_BLH = model.hidden_states(ids_BL, mask_BL)
    last_B = mask_BL.sum(dim=1) - 1
    place_B = torch.arange(len(rows), device=model.device)
    target_B = torch.tensor([row.example.target_index for row in rows], device=model.device)
    candidates_C = torch.tensor(live.index_C, device=model.device)
    histories = [set(row.example.history.item_index) for row in rows]
    mask_BC = terms.candidate_mask(target_B, candidates_C, histories)
    column_B = terms.target_column(target_B.unsqueeze(1) == candidates_C.unsqueeze(0))
    logits_BC = terms.in_batch_logits(
        hidden_BLH[place_B, last_B], live.rows_CH, mask_BC, live.correction_C, model.temperature
    )
    item = torch.nn.functional.cross_entropy(logits_BC, column_B, reduction="sum")
    hits = (logits_BC.argmax(dim=-1) == column_B).sum().float()
    first_B = torch.tensor([row.first_language for row in rows], device=model.device)
    positions_L = torch.arange(1, ids_BL.shape[1], device=model.device)
    spoken_BL = (positions_L >= first_B.unsqueeze(1)) & mask_BL[:, 1:].bool()
    logits_TV = model.logits(hidden_BLH[:, :-1][spoken_BL])
    language = torch.nn.functional.cross_entropy(
        logits_TV, ids_BL[:, 1:][spoken_BL], reduction="sum"
    )
    return item, language, hits


def _no_losses(model: DualHeadModel, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros that call the layers as `_losses` does: a rank without rows reduces like the others."""
    ids = torch.full((1, 1), pad_id, device=model.device)
    hidden_LH = model.hidden_states(ids, torch.ones_like(ids))[0]
    return (
        0.0 * hidden_LH.float().sum(),
        model.logits(hidden_LH[:0]).sum(),
        torch.zeros((), device=model.device),
    )


def _thin(history: History, dropout: float, source: random.Random) -> History:
    """Leave out items of a history at random, never the last one."""
    last = len(history.item_index) - 1
    kept = [i for i in range(last + 1) if i == last or source.random() >= dropout]
    return replace(
        history,
        item_index=tuple(history.item_index[i] for i in kept),
        rating=tuple(history.rating[i] for i in kept),
        time=tuple(history.time[i] for i in kept),
    )
