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
from r2ec.model.packed import PackedRows, attention_masks, can_pack
from r2ec.model.slots import SlotCache

# Heads that scale their logits say so in their config; each is (attribute, function of logits).
_SOFTCAP = "final_logit_softcapping"
_MULTIPLY = "logit_scale"
_DIVIDE = "logits_scaling"


class DualHeadModel(nn.Module):
    """A causal language model whose last hidden states also rank items.

    `causal_lm` may be wrapped by peft. `temperature` is tau of the item softmax. With `recompute`
    (gradient checkpointing) a forward with gradient keeps the inputs of each layer alone and
    computes the rest again in the backward pass.
    """

    def __init__(
        self, causal_lm: nn.Module, *, temperature: float, recompute: bool = False
    ) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self.temperature = temperature
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
        return int(self.config.hidden_size)

    @property
    def max_positions(self) -> int | None:
        """Most tokens of a row by the backbone's config; None where it does not say."""
        config = self.config
        positions = getattr(config, "max_position_embeddings", None)
        scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
        if positions is None or not isinstance(scaling, dict):
            return positions
        # YaRN and its like stretch the positions that the model was trained with.
        trained, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
        return max(positions, int(trained * factor)) if trained and factor else int(positions)

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

    def check_backbone(self) -> None:
        """Raise `UsageError` for attention that takes no mask of ours, or logits that differ or are
        not finite.

        Guards against a family whose config has yet another way to change its logits.
        """
        if not can_pack(self.config):
            kinds = sorted(set(getattr(self.config, "layer_types", None) or ()))
            raise UsageError(
                f"{type(self._pretrained()).__name__} attends by"
                f" {self.config._attn_implementation}{f' in {kinds}' if kinds else ''}: full or"
                " sliding layers with sdpa or eager attention are needed; use another base model"
            )
        ids = torch.arange(4, device=self.device).unsqueeze(0) % self.config.vocab_size
        with torch.no_grad():
            own = self.logits(self.hidden_states(ids, torch.ones_like(ids))[0])
            reference = self.causal_lm(input_ids=ids).logits[0].float()
        if not torch.isfinite(own).all():
            raise UsageError(
                f"{type(self._pretrained()).__name__} writes logits that are not finite in"
                f" {self.dtype}: its weights are damaged, or need another dtype; copy it again"
            )
        difference = (own - reference).abs().max().item()
        if difference > 1e-2 * (1 + reference.abs().max().item()):
            raise UsageError(
                f"{type(self._pretrained()).__name__} changes its logits in a way this program does"
                f" not know (difference {difference:.3g}); use another base model"
            )

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
