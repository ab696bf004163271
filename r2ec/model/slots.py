"""A preallocated cache of keys and values: one slot a row, rows come and go while others decode.

Row n's tokens lie at places 0, 1, ... of slot n; `lengths_N` says how many. Slots in use are always
the first ones, so a batch is a view and never a copy. What lies behind a row's length is old and
masked; it is written over as the row grows.

Shapes: N slots, n of them in use, L places, K heads of keys and values, D their width.
"""

from typing import Any

import torch
from torch import Tensor

from r2ec.model.packed import allowed_masks


class SlotCache:
    """Keys and values of at most `num_slots` rows of at most `num_places` tokens.

    Given to a backbone as its cache for steps of one token a row; prompts are brought in by `put`.
    """

    def __init__(self, config: Any, num_slots: int, num_places: int) -> None:
        self._config = config
        self._num_slots, self._num_places = num_slots, num_places
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.lengths_N = torch.zeros(num_slots, dtype=torch.long)
        self.used = 0
        self._longest = 0

    def put(self, prompts: Any, lengths: list[int], group_size: int) -> None:
        """Copy the cache of prompts, padded at the right, into the next free slots.

        `prompts` is a `DynamicCache` of `transformers`; each takes `group_size` slots. Raises
        `ValueError` where they are not free.
        """
        count = len(lengths) * group_size
        if self.used + count > self._num_slots or max(lengths) > self._num_places:
            raise ValueError(f"{count} rows of {max(lengths)} tokens do not fit: {self!r}")
        for number, layer in enumerate(prompts.layers):
            if number == len(self._keys):
                self._keys.append(self._empty(layer.keys))
                self._values.append(self._empty(layer.values))
            length = layer.keys.shape[2]
            place = (slice(self.used, self.used + count), slice(None), slice(0, length))
            self._keys[number][place] = layer.keys.repeat_interleave(group_size, dim=0)
            self._values[number][place] = layer.values.repeat_interleave(group_size, dim=0)
        repeated = torch.tensor(lengths).repeat_interleave(group_size)
        self.lengths_N[self.used : self.used + count] = repeated
        self.used += count

    def drop(self, slot: int) -> int:
        """Free a slot; the last row in use moves into it. Returns the slot that moved."""
        last = self.used - 1
        if slot != last:
            length = int(self.lengths_N[last])
            for tensor in (*self._keys, *self._values):
                tensor[slot, :, :length] = tensor[last, :, :length]
            self.lengths_N[slot] = length
        self.used = last
        return last

    def begin_step(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Any]:
        """Make room for one token a row; its positions (n, 1) and the masks of the layers."""
        self._positions_n = self.lengths_N[: self.used].clone().to(device)
        self._rows_n = torch.arange(self.used, device=device)
        self._longest = int(self.lengths_N[: self.used].max()) + 1
        self.lengths_N[: self.used] += 1
        places_L = torch.arange(self._longest, device=device)
        ahead_n1L = (self._positions_n.unsqueeze(1) - places_L).unsqueeze(1)
        masks = allowed_masks(self._config, ahead_n1L >= 0, ahead_n1L, dtype)
        return self._positions_n.unsqueeze(1), masks

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by the backbone: keep one token's (n, K, 1, D), give all up to the longest row."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._rows_n, :, self._positions_n] = key_states[:, :, 0]
        values[self._rows_n, :, self._positions_n] = value_states[:, :, 0]
        used = slice(0, self.used), slice(None), slice(0, self._longest)
        return keys[used], values[used]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest row."""
        return self._longest

    def __repr__(self) -> str:
        return f"SlotCache({self.used} of {self._num_slots} slots, {self._num_places} places)"

    def _empty(self, like_NKLD: Tensor) -> Tensor:
        _, heads, _, width = like_NKLD.shape
        # Zeros, for a masked place still takes part with weight 0, which makes NaN of a NaN.
        return like_NKLD.new_zeros(self._num_slots, heads, self._num_places, width)


def row_bytes(config: Any, num_places: int, dtype: torch.dtype) -> int:
    """Bytes that one row of this many tokens takes in all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * num_places * dtype.itemsize)
