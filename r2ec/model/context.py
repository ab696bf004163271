"""How many tokens a backbone was made for, against how many a run may put before it."""

from torch import nn

from r2ec.errors import UsageError
from r2ec.logs import get_logger
from r2ec.model.dual_head import DualHeadModel
from r2ec.text.tokens import PromptEncoder

_LOG = get_logger(__name__)


def check_context(model: DualHeadModel, encoder: PromptEncoder, budget: int, setting: str) -> None:
    """Whether a longest prompt, `budget` tokens of reasoning and the marker fit the backbone.

    Beyond the positions it was made for a rotary model goes on, badly: that is a warning. Raises
    `UsageError` where positions are learned, one row each. `setting` names what gave the budget.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    needed = encoder.max_prompt_tokens + budget + len(encoder.marker_ids)
    if positions is None or needed <= positions:
        return
    message = (
        f"prompts of {encoder.max_prompt_tokens} tokens (prompt.max_prompt_tokens), {budget} of"
        f" reasoning ({setting}) and {len(encoder.marker_ids)} of the marker are {needed}, but the"
        f" base model has {positions} positions: lower one of the two, or take a model with more"
    )
    if _has_learned_positions(model):
        raise UsageError(message)
    _LOG.warning("%s; what lies beyond them it reads badly", message)


def _has_learned_positions(model: DualHeadModel) -> bool:
    """Whether there is a table of embeddings beside that of the tokens."""
    tables = sum(isinstance(module, nn.Embedding) for module in model.modules())
    return tables > 1
