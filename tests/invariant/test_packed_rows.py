"""A completion in a packed row is computed as in a row of its own."""

import pytest
import torch

from r2ec.config import InitConfig
from r2ec.errors import UsageError
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.packed import PADDING, pack_rows
from r2ec.model.scratch import build_scratch_model
from r2ec.recpo.rollout import policy_pass
from r2ec.sampler import Completion
from tests.factories.models import FAMILIES, small_model, tokenizer_of

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [5, 6, 7, 8, 9, 10, 11, 12], [20, 21, 22]]
COMPLETIONS = [[30, 31, 32, 33, 34, 35, 36], [40, 41], [30, 31, 32, 33]]


def model_of(family: str, attention: str = "") -> DualHeadModel:
    """Random weights; Gemma-2's sliding layers see four tokens, fewer than any row has."""
    if family != "gemma2":
        model, _ = small_model(family)
    else:
        config = InitConfig(
            family=family,
            vocab_size=420,
            hidden_size=32,
            intermediate_size=64,
            initializer_range=0.3,
        )
        causal = build_scratch_model(config, tokenizer_of())
        causal.config.sliding_window = 4
        model = DualHeadModel(causal, temperature=0.1).eval()
        assert "sliding_attention" in model.config.layer_types
    if attention:
        model.causal_lm.set_attn_implementation(attention)
    return model


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_completion_has_the_hidden_states_of_its_own_row(
    family: str, attention: str
) -> None:
    model = model_of(family, "" if family == "gemma2" else attention)
    rows = pack_rows(PROMPTS, COMPLETIONS, 0)
    assert rows.ids_BL.shape == (2, 17), "the first two share their prompt"
    with torch.no_grad():
        packed_BLH = model.packed_hidden_states(rows)
        for number, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            ids = torch.tensor([[*prompt, *completion]])
            own_LH = model.causal_lm(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
            row, first = rows.row_N[number], rows.first_N[number]
            found = packed_BLH[row, first : first + len(completion)]
            assert (found - own_LH[len(prompt) :]).abs().max() < 1e-4
            assert (packed_BLH[row, : len(prompt)] - own_LH[: len(prompt)]).abs().max() < 1e-4
    assert packed_BLH.isfinite().all(), "padding must not poison a row"
    assert (rows.segments_BL[1, 7:] == PADDING).all()


def completions_of(model: DualHeadModel) -> list[Completion]:
    return [
        Completion(
            prompt_ids=prompt,
            ids=ids,
            num_sampled=len(ids) - 1,
            finish_reason="length",
            logprobs_T=torch.zeros(len(ids) - 1),
            state_H=torch.zeros(model.hidden_size),
            support_TK=None,
        )
        for prompt, ids in zip(PROMPTS, COMPLETIONS, strict=True)
    ]


def test_attention_that_takes_no_mask_of_ours_is_refused() -> None:
    model = model_of("qwen2")
    model.check_backbone()
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UsageError, match="linear_attention"):
        model.check_backbone()


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ValueError, match="2 prompts but 1 completions"):
        pack_rows([[1], [2]], [[3]], 0)
    with pytest.raises(ValueError, match="no tokens"):
        pack_rows([[]], [[3]], 0)


def gradients_and_kept_bytes(model: DualHeadModel) -> tuple[dict[str, torch.Tensor], int]:
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    completions = completions_of(model)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        new = policy_pass(model, completions, pad_id=0, temperature=1.3)
        (new.logprobs_T.sum() + new.state_NH.sum()).backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads, kept


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_layers_give_the_same_gradient_and_keep_less(family: str) -> None:
    plain = model_of(family)
    recomputing = DualHeadModel(plain.causal_lm, temperature=0.1, recompute=True).eval()
    expected, kept = gradients_and_kept_bytes(plain)
    found, kept_less = gradients_and_kept_bytes(recomputing)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() < 1e-5 * (1 + value.abs().max()), name
    assert kept_less < 0.6 * kept
    assert not any(module.training for module in recomputing.modules()), "dropout stays off"
