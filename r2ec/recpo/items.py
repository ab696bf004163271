"""The item side of a training step: the table of rows, and live rows with gradient.

Live rows of the whole global batch are needed by every user's item term, whatever the cut into
ranks and micro-batches. So they are computed without gradient, gathered, used as a leaf, and the
leaf's gradient, summed over ranks, is sent back through the item prompts in micro-batches: the
gradient is exact, and memory does not grow with the batch.

Shapes: C rows of the global batch, I catalog items, H hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from r2ec.recpo.batches import cut
from r2ec.recpo.engine import Engine, World
from r2ec.retrieval.embed import embed_items, encode_rows


class ItemTable:
    """The rows of `rec_head` during training, kept equal on all ranks, float32 (I, H).

    `correction_I` is what the in-batch softmax takes off an item's logit; nothing by default.
    """

    def __init__(
        self,
        world: World,
        rows: Sequence[Sequence[int]],
        pad_id: int,
        correction_I: Tensor | None = None,
    ) -> None:
        self.world, self.rows, self.pad_id = world, rows, pad_id
        self.correction_I = torch.zeros(len(rows)) if correction_I is None else correction_I
        self.table_IH = torch.empty(0)

    def refresh(self, engine: Engine) -> None:
        """Embed the whole catalog anew; each rank does its share."""
        mine = self.world.share(list(self.rows))
        with engine.whole_weights():
            local = embed_items(engine.model, mine, pad_id=self.pad_id)
        self.table_IH = self.world.gather_rows(local, len(self.rows)).to(engine.model.device)

    def put(self, index_C: Sequence[int], rows_CH: Tensor) -> None:
        """Overwrite rows of the table with fresh ones."""
        self.table_IH[torch.tensor(index_C, device=self.table_IH.device)] = rows_CH.to(
            self.table_IH
        )


class LiveRows:
    """Item rows of a global batch under the current weights; `rows_CH` is a leaf with gradient."""

    def __init__(self, engine: Engine, table: ItemTable, index_C: Sequence[int]) -> None:
        self._engine, self._table = engine, table
        self.index_C = list(index_C)
        self._mine = engine.world.share([table.rows[index] for index in self.index_C])
        with engine.whole_weights():
            local = embed_items(engine.model, self._mine, pad_id=table.pad_id)
        whole_CH = engine.world.gather_rows(local, len(self.index_C))
        self.rows_CH = whole_CH.to(engine.model.device).requires_grad_()
        self.correction_C = table.correction_I[self.index_C].to(self.rows_CH.device)

    def backward(self, micro_batch: int) -> None:
        """Send the gradient that `rows_CH` has gathered back through this rank's item prompts."""
        world = self._engine.world
        gradient_CH = self.rows_CH.grad
        if gradient_CH is None:
            gradient_CH = torch.zeros_like(self.rows_CH)
        # The engine's backward multiplied each rank's loss by the number of ranks.
        gradient_CH = world.sum_(gradient_CH.clone()) / world.size
        own = gradient_CH[world.rank :: world.size]
        chunks = -(-world.largest_share(len(self.index_C)) // micro_batch)
        by_length = sorted(range(len(self._mine)), key=lambda row: len(self._mine[row]))
        for chunk in cut(by_length, micro_batch, chunks):
            rows = [self._mine[row] for row in chunk] or [self._table.rows[0]]
            states = encode_rows(self._engine.model, rows, pad_id=self._table.pad_id).float()
            weight = own[chunk] if chunk else torch.zeros_like(states)
            self._engine.backward((states * weight).sum())
        self.rows_CH.grad = None
