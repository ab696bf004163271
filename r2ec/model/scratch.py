"""Small base models from scratch: a tokenizer trained on the catalog and a short warm-up.

For shops, tests and laptops without a pretrained model. The warm-up teaches the language of the
shop and the form of a reasoning (words about the items seen, then the answer marker); it sees the
catalog's text alone, never an interaction.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from r2ec.catalog import Catalog, CatalogItem
from r2ec.config import InitConfig, PromptConfig
from r2ec.errors import UsageError
from r2ec.model.checkpoint import encoder_for
from r2ec.model.dual_head import DualHeadModel
from r2ec.tables import History
from r2ec.text.prompts import (
    DAY,
    PromptTemplate,
    item_prompt,
    neutralise,
    shorten,
    user_prompt,
)
from r2ec.text.tokens import PromptEncoder, pad_right

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{{ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over `texts` with a chat template; any Unicode text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def tokenizer_texts(catalog: Catalog, template: PromptTemplate) -> Iterator[str]:
    """The catalog in the words of the prompts, so that their fixed parts cost few tokens."""
    source = random.Random(0)
    for item in catalog.items:
        yield item_prompt(template, item)
        history, items = pretend_history(catalog, source, longest=6)
        yield user_prompt(template, history, items)
        yield pretend_reasoning(items[-1])


def build_scratch_model(config: InitConfig, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A randomly initialised causal LM of the family and shape given, seeded.

    Raises `UsageError` for a hidden size that its heads do not divide.
    """
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.hidden_size // config.num_heads,
        "max_position_embeddings": config.max_positions,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "dtype": "float32",
    }
    if config.hidden_size % config.num_heads or config.num_heads % config.num_kv_heads:
        raise UsageError(
            f"init: hidden_size {config.hidden_size} must be a multiple of num_heads"
            f" {config.num_heads}, and that of num_kv_heads {config.num_kv_heads}"
        )
    torch.manual_seed(config.seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.family, **shape))
    return model.float()


def warm_up(
    model: DualHeadModel,
    encoder: PromptEncoder,
    catalog: Catalog,
    config: InitConfig,
    report: Callable[[int, float], None],
) -> float:
    """Train the language model on pretended users of this catalog; returns the last mean loss.

    Loss is the mean cross-entropy per token over the whole text. `report(step, loss)` is called
    at each step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.warmup_lr, weight_decay=0.01)
    source = random.Random(config.seed)
    recent = 0.0
    model.train()
    for step in range(config.warmup_steps):
        lr = config.warmup_lr * min(1.0, (step + 1) / 20) * (1 - step / config.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        rows = [warm_up_row(encoder, catalog, source) for _ in range(config.warmup_batch)]
        loss = language_loss(model, rows, encoder.tokenizer.pad_token_id or 0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = loss.item() if step == 0 else 0.9 * recent + 0.1 * loss.item()
        report(step + 1, recent)
    model.eval()
    return recent


def warm_up_row(encoder: PromptEncoder, catalog: Catalog, source: random.Random) -> list[int]:
    """Ids of one pretended user: prompt, reasoning, marker, end of turn."""
    history, items = pretend_history(catalog, source, longest=4)
    prompt = encoder.user_ids_from_items(history, items)
    return prompt + reasoning_ids(encoder, items[-1])


def reasoning_ids(encoder: PromptEncoder, item: CatalogItem) -> list[int]:
    """Ids of a pretended reasoning about an item, ended by the marker."""
    text = neutralise(pretend_reasoning(item), encoder.template.forbidden)
    ids: list[int] = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids + list(encoder.marker_ids)


def pretend_history(
    catalog: Catalog, source: random.Random, *, longest: int
) -> tuple[History, list[CatalogItem]]:
    """A made-up history of 1 to `longest` random catalog items."""
    items = [catalog.items[source.randrange(catalog.num_items)]]
    items += [
        catalog.items[source.randrange(catalog.num_items)] for _ in range(source.randrange(longest))
    ]
    times = sorted(source.randrange(1, 900) * DAY for _ in items)
    return (
        History(
            user_id="",
            item_index=tuple(item.item_index for item in items),
            rating=tuple(float(source.randint(1, 5)) for _ in items),
            time=tuple(times),
            now=times[-1] + source.randrange(0, 60) * DAY,
        ),
        items,
    )


def pretend_reasoning(item: CatalogItem) -> str:
    """A short thought in the shop's own words about the kind and the store of an item.

    Kept to what a small model can read off the prompt: a user state that was trained after true
    thoughts is misled by the longer ones that it gets wrong when it writes by itself.
    """
    thoughts = []
    if item.category:
        thoughts.append(f"looks at {shorten(item.category.split(' > ')[-1], 30)}")
    if item.store:
        thoughts.append(f"likes {shorten(item.store, 24)}")
    return "; ".join(thoughts or [f"bought {shorten(item.title, 24)}"]) + ". "


def language_loss(model: DualHeadModel, rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Mean next-token cross-entropy over all tokens of `rows` (a scalar with gradient)."""
    ids, mask = pad_right(rows, pad_id)
    ids_BL = torch.tensor(ids, device=model.device)
    mask_BL = torch.tensor(mask, device=model.device)
    hidden_BLH = model.hidden_states(ids_BL, mask_BL)
    kept_BL = mask_BL[:, 1:].bool()
    logits_NV = model.logits(hidden_BLH[:, :-1][kept_BL])
    return torch.nn.functional.cross_entropy(logits_NV, ids_BL[:, 1:][kept_BL])


def make_base_model(
    catalog: Catalog,
    config: InitConfig,
    *,
    prompt: PromptConfig,
    marker: str,
    output: str | Path,
    report: Callable[[int, float], None],
) -> float:
    """Tokenizer, random weights and warm-up for one catalog, saved as a Hugging Face directory.

    Returns the last language-model loss (0 without warm-up).
    """
    template = PromptTemplate(
        marker=marker,
        forbidden=(marker, END_OF_TEXT, TURN_START, TURN_END),
        history_items=prompt.history_items,
        title_chars=prompt.title_chars,
        description_chars=prompt.description_chars,
    )
    tokenizer = train_tokenizer(tokenizer_texts(catalog, template), config.vocab_size)
    encoder = encoder_for(tokenizer, marker=marker, prompt=prompt, stop_ids=[])
    model = DualHeadModel(build_scratch_model(config, tokenizer), temperature=1.0)
    loss = warm_up(model, encoder, catalog, config, report)
    causal_lm: Any = model.causal_lm
    # Saving imports DeepSpeed where it is installed, which warns of a machine without a GPU.
    logging.getLogger("DeepSpeed").addFilter(
        lambda record: "Setting accelerator to CPU" not in record.getMessage()
    )
    transformers_logging.disable_progress_bar()
    causal_lm.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return loss
