"""The dual-head model: one decoder, `lm_head` for the reasoning, `rec_head` for the catalog.

Composition over `AutoModelForCausalLM`; nothing hangs on a model's class name. `rec_head` is a
matrix of item rows made by the same backbone (`retrieval/embed.py`), kept outside the module, so
items are added, changed or removed by editing rows.

Shapes: B rows, L tokens, H hidden size, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from r2ec.errors import UsageError
from r2ec.model.packed import PackedRows, attention_masks, can_pack, pack_rows
from r2ec.model.slots import SlotCache

# Heads that scale their logits say so in their config; each is (attribute, function of logits).
_SOFTCAP = "final_logit_softcapping"
_MULTIPLY = "logit_scale"
_DIVIDE = "logits_scaling"


class DualHeadModel(nn.Module):
    """A causal language model whose last hidden states also rank items.

    `causal_lm` may be wrapped by peft. `temperature` is tau of the item softmax. With `recompute`
    (gradient checkpointing) a forward with gradient keeps the inputs of each layer alone and
    computes the rest again in the backward pass. `end_of_positions` is the most tokens of a row,
    where the backbone has a row of weights for each.
    """

    def __init__(
        self,
        causal_lm: nn.Module,
        *,
        temperature: float,
        recompute: bool = False,
        end_of_positions: int | None = None,
    ) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self.temperature = temperature
        self.end_of_positions = end_of_positions
        self._recomputed: list[nn.Module] = []
        if recompute:
            # Named anew in transformers 5; before that, by its older name.
            pretrained: Any = self._pretrained()
            name = "activation_checkpointing_enable"
            if not hasattr(pretrained, name):
                name = "gradient_checkpointing_enable"
            getattr(pretrained, name)({"use_reentrant": False})
            self._recomputed = [
                module
                for module in self.modules()
                if getattr(module, "gradient_checkpointing", None) is True
            ]
            if not self._recomputed:
                raise UsageError(
                    f"engine.gradient_checkpointing: {type(pretrained).__name__} cannot do it"
                )

    @property
    def config(self) -> Any:
        """The backbone's `transformers` configuration."""
        return self._pretrained().config.get_text_config(decoder=True)

    @property
    def hidden_size(self) -> int:
        """H, the width of user states and item rows."""
        # Some project their last hidden states down to the width of their word embeddings.
        return int(getattr(self.config, "word_embed_proj_dim", None) or self.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the backbone's weights."""
        return self._pretrained().dtype

    def hidden_states(
        self,
        ids_BL: Tensor,
        mask_BL: Tensor,
        *,
        cache: Any = None,
    ) -> Tensor:
        """Final hidden states (after the last norm) of the new tokens, (B, L, H).

        `mask_BL` covers the cached tokens too where `cache` is given; positions count the tokens
        that the mask keeps, so padding on either side changes nothing.
        """
        positions = (mask_BL.long().cumsum(dim=1) - 1).clamp(min=0)[:, -ids_BL.shape[1] :]
        with self._recomputing():
            output = self._pretrained().get_decoder()(
                input_ids=ids_BL,
                attention_mask=mask_BL,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def packed_hidden_states(self, rows: PackedRows) -> Tensor:
        """Final hidden states of packed rows, (B, L, H): each as in a row of its own."""
        positions_BL = rows.positions_BL.to(self.device)
        segments_BL = rows.segments_BL.to(self.device)
        masks = attention_masks(self.config, positions_BL, segments_BL, self.dtype)
        with self._recomputing():
            output = self._pretrained().get_decoder()(
                input_ids=rows.ids_BL.to(self.device),
                attention_mask=masks,
                position_ids=positions_BL,
                use_cache=False,
            )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def prefill(self, ids_BL: Tensor) -> tuple[Tensor, DynamicCache]:
        """Final hidden states of prompts padded at the right, (B, L, H), and their cache.

        Attention is causal, so no token of a prompt sees the padding behind it.
        """
        cache = DynamicCache()
        positions_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        output = self._pretrained().get_decoder()(
            input_ids=ids_BL,
            position_ids=positions_L.unsqueeze(0).expand_as(ids_BL),
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state, cache

    def decode(self, ids_n: Tensor, positions_n: Tensor, longest: int, slots: SlotCache) -> Tensor:
        """Final hidden states of one more token of the first n slots, (n, H).

        Row n's token comes to `positions_n`, all of them below `longest`.
        """
        pretrained = self._pretrained()
        masks = slots.begin_step(positions_n, longest, pretrained.dtype)
        output = pretrained.get_decoder()(
            input_ids=ids_n.unsqueeze(1),
            attention_mask=masks,
            position_ids=positions_n.unsqueeze(1),
            past_key_values=slots,
            use_cache=True,
        )
        hidden_nH: Tensor = output.last_hidden_state[:, 0]
        return hidden_nH

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """Next-token logits in float32, (N, V), scaled and capped as the backbone's config says."""
        logits: Tensor = self._pretrained().get_output_embeddings()(hidden_NH).float()
        config = self.config
        if (scale := getattr(config, _MULTIPLY, None)) is not None:
            logits = logits * scale
        if (scale := getattr(config, _DIVIDE, None)) is not None:
            logits = logits / scale
        if (cap := getattr(config, _SOFTCAP, None)) is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits

    def last_hidden(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Hidden state of each row's last token, (B, H), for rows padded at the right."""
        hidden_BLH = self.hidden_states(ids_BL, mask_BL)
        last_B = mask_BL.long().sum(dim=1) - 1
        return hidden_BLH[torch.arange(ids_BL.shape[0], device=hidden_BLH.device), last_B]

    def check_length(self, num_tokens: int) -> None:
        """Raise `UsageError` for a row of more tokens than the backbone has positions."""
        if self.end_of_positions is not None and num_tokens > self.end_of_positions:
            raise UsageError(
                f"rows of {num_tokens} tokens (prompt, reasoning, marker), but the model has"
                f" learned {self.end_of_positions} positions; lower the budget of the reasoning"
            )

    def check_backbone(self) -> None:
        """Raise `UsageError` for a backbone that this program cannot run.

        Its attention takes no mask or cache of ours, or its logits or its steps differ from plain
        forwards: guards against a family with yet another way to change either.
        """
        if not can_pack(self.config):
            kinds = sorted(set(getattr(self.config, "layer_types", None) or ()))
            raise UsageError(
                f"{type(self._pretrained()).__name__} attends by"
                f" {self.config._attn_implementation}{f' in {kinds}' if kinds else ''}: full or"
                " sliding layers with sdpa or eager attention are needed; use another base model"
            )
        ids = torch.arange(4, device=self.device).unsqueeze(0) % self.config.vocab_size
        name = type(self._pretrained()).__name__
        try:
            with torch.no_grad():
                hidden_LH = self.hidden_states(ids, torch.ones_like(ids))[0]
                others_NH = self._last_hidden_otherwise(ids)
        except Exception as error:
            # What a family does with a mask or a cache that it did not expect is its own affair.
            raise UsageError(
                f"{name} takes no masks and caches of this program ({type(error).__name__}:"
                f" {error}); use another base model"
            ) from error
        if not torch.isfinite(hidden_LH).all():
            raise UsageError(
                f"{name} makes hidden states that are not finite in"
                f" {self.dtype}: its weights are damaged, or need another dtype; copy it again"
            )
        far = 0.1 if self.dtype == torch.bfloat16 else 1e-2
        apart = (others_NH - hidden_LH[-1]).abs().max().item()
        if not apart <= far * (1 + hidden_LH[-1].abs().max().item()):
            raise UsageError(
                f"{name} gives other hidden states step by step than at once (difference"
                f" {apart:.3g}); use another base model"
            )
        with torch.no_grad():
            own = self.logits(hidden_LH)
            reference = self.causal_lm(input_ids=ids).logits[0].float()
        difference = (own - reference).abs().max().item()
        if difference > 1e-2 * (1 + reference.abs().max().item()):
            raise UsageError(
                f"{name} changes its logits in a way this program does"
                f" not know (difference {difference:.3g}); use another base model"
            )

    def _last_hidden_otherwise(self, ids_1L: Tensor) -> Tensor:
        """The last token's hidden state by one step after a prompt, and in a packed row (2, H)."""
        prompt, last = ids_1L[0, :-1], ids_1L[0, -1:]
        _, cache = self.prefill(prompt.unsqueeze(0))
        slots = SlotCache(self.config, 1, ids_1L.shape[1])
        slots.put(cache, [len(prompt)], 1)
        position = torch.tensor([len(prompt)], device=self.device)
        stepped_1H = self.decode(last, position, ids_1L.shape[1], slots)
        packed = pack_rows([prompt.tolist()] * 2, [last.tolist()] * 2, 0)
        return torch.cat([stepped_1H, self.packed_hidden_states(packed)[0, -1:]])

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        """Layers recompute only while they are in training mode, which nothing else here is: it
        would switch dropout on, and the policy would be another one than the sampler's."""
        layers = self._recomputed if torch.is_grad_enabled() else []
        before = [layer.training for layer in layers]
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer, training in zip(layers, before, strict=True):
                layer.training = training

    def _pretrained(self) -> PreTrainedModel:
        """The `transformers` model, under peft's wrapper where there is one."""
        model: Any = self.causal_lm
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()
        pretrained: PreTrainedModel = model
        return pretrained
