"""A preallocated cache of keys and values: one slot a row, rows come and go while others decode.

Row n's tokens lie at places 0, 1, ... of slot n; `lengths` says how many. Slots in use are always
the first ones, so a batch is a view and never a copy. What lies behind a row's length is old and
masked; it is written over as the row grows. To take tokens of a row back, lower its length.

Shapes: N slots, n rows of a step, L places, K heads of keys and values, D their width.
"""

from typing import Any

import torch
from torch import Tensor

from r2ec.model.packed import allowed_masks


class SlotCache:
    """Keys and values of at most `num_slots` rows of at most `num_places` tokens.

    Given to a backbone as its cache for steps of one token a row; prompts are brought in by `put`.
    `lengths` is the caller's to change: a step writes where it is told to and counts nothing.
    """

    def __init__(self, config: Any, num_slots: int, num_places: int) -> None:
        self._config = config
        self.num_slots, self.num_places = num_slots, num_places
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.lengths: list[int] = []
        self._longest = 0

    @property
    def used(self) -> int:
        """Slots in use."""
        return len(self.lengths)

    def put(self, prompts: Any, lengths: list[int], group_size: int) -> None:
        """Copy the cache of prompts, padded at the right, into the next free slots.

        `prompts` is a `DynamicCache` of `transformers`; each takes `group_size` slots. Raises
        `ValueError` where they are not free.
        """
        count = len(lengths) * group_size
        if self.used + count > self.num_slots or max(lengths) > self.num_places:
            raise ValueError(f"{count} rows of {max(lengths)} tokens do not fit: {self!r}")
        for number, layer in enumerate(prompts.layers):
            if number == len(self._keys):
                self._keys.append(self._empty(layer.keys))
                self._values.append(self._empty(layer.values))
            length = layer.keys.shape[2]
            place = (slice(self.used, self.used + count), slice(None), slice(0, length))
            self._keys[number][place] = layer.keys.repeat_interleave(group_size, dim=0)
            self._values[number][place] = layer.values.repeat_interleave(group_size, dim=0)
        self.lengths += [length for length in lengths for _ in range(group_size)]

    def drop(self, slot: int) -> int:
        """Free a slot; the last row in use moves into it. Returns the slot that moved."""
        last = self.used - 1
        if slot != last:
            length = self.lengths[last]
            for tensor in (*self._keys, *self._values):
                tensor[slot, :, :length] = tensor[last, :, :length]
            self.lengths[slot] = length
        self.lengths.pop()
        return last

    def begin_step(self, positions_n: Tensor, longest: int, dtype: torch.dtype) -> Any:
        """Make ready for one token of each of the first n slots; the masks of the layers.

        `positions_n` are the tokens' places, on the cache's device and read only there, so no step
        waits for them; `longest` is more than any of them.
        """
        self._positions_n, self._longest = positions_n, longest
        self._rows_n = torch.arange(len(positions_n), device=positions_n.device)
        places_L = torch.arange(longest, device=positions_n.device)
        ahead_n1L = (positions_n.unsqueeze(1) - places_L).unsqueeze(1)
        return allowed_masks(self._config, ahead_n1L >= 0, ahead_n1L, dtype)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by the backbone: keep one token's (n, K, 1, D), give all up to the longest row."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._rows_n, :, self._positions_n] = key_states[:, :, 0]
        values[self._rows_n, :, self._positions_n] = value_states[:, :, 0]
        used = slice(0, len(self._rows_n)), slice(None), slice(0, self._longest)
        return keys[used], values[used]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest row."""
        return self._longest

    def __repr__(self) -> str:
        return f"SlotCache({self.used} of {self.num_slots} slots, {self.num_places} places)"

    def _empty(self, like_NKLD: Tensor) -> Tensor:
        _, heads, _, width = like_NKLD.shape
        # Zeros, for a masked place still takes part with weight 0, which makes NaN of a NaN.
        return like_NKLD.new_zeros(self.num_slots, heads, self.num_places, width)


def row_bytes(config: Any, num_places: int, dtype: torch.dtype) -> int:
    """Bytes that one row of this many tokens takes in all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * num_places * dtype.itemsize)
