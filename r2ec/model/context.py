"""How many tokens a backbone holds in a row, against what a run puts into one."""

from r2ec.errors import UsageError
from r2ec.logs import get_logger
from r2ec.text.tokens import PromptEncoder

_LOG = get_logger(__name__)
_SMALLEST_PROMPT = 32  # fewer tokens hold no request


def check_context(encoder: PromptEncoder, budget: int, setting: str) -> None:
    """Whether `budget` tokens of reasoning and the marker leave room for a prompt.

    Where prompts have to be shorter than `max_prompt_tokens` for it, that is a warning. Raises
    `UsageError` where there is no room for any. `setting` names what gave the budget.
    """
    if encoder.positions is None:
        return
    room = encoder.positions - budget - len(encoder.marker_ids)
    told = (
        f"the model has {encoder.positions} positions, and a reasoning of {budget} tokens"
        f" ({setting}) with the marker leaves {max(room, 0)} of them for the prompt"
    )
    if room < _SMALLEST_PROMPT:
        raise UsageError(f"{told}: lower {setting}, or take a model with more")
    if room < encoder.max_prompt_tokens:
        _LOG.warning(
            "%s, fewer than prompt.max_prompt_tokens = %d: the oldest items of long histories are"
            " left out",
            told,
            encoder.max_prompt_tokens,
        )
