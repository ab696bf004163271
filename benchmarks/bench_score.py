"""Users per second of the one-pass sampler against `generate` plus a second forward.

Same weights, same prompts, same tokens: ours samples, and the peer is made to choose what ours
sampled. The peer runs `transformers` generate on the padded batch to the longest row, then
puts prompt, reasoning and marker through the model again for the user state. Random weights end a
reasoning at any token with some chance, so lengths are spread. The last line is one JSON object;
`ratio` is the peer's time over ours.
"""

import argparse
import json
import resource
import time

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from r2ec.config import InitConfig, PromptConfig
from r2ec.model.checkpoint import encoder_for
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.scratch import build_scratch_model, train_tokenizer
from r2ec.retrieval.embed import encode_rows
from r2ec.sampler import Completion, SamplingSettings, sample
from r2ec.text.tokens import PromptEncoder, pad_left


def build(hidden_size: int) -> tuple[DualHeadModel, PromptEncoder]:
    """A Qwen2-shaped model of random weights whose rows end after different lengths."""
    tokenizer = train_tokenizer(iter(["printer ink paper lamps guitars strings <answer>"]), 300)
    config = InitConfig(
        vocab_size=300,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_layers=6,
        num_heads=8,
        num_kv_heads=4,
        initializer_range=0.05,
    )
    model = DualHeadModel(build_scratch_model(config, tokenizer), temperature=0.1).eval()
    return model, encoder_for(tokenizer, marker="<answer>", prompt=PromptConfig(), stop_ids=[])


def make_prompts(num_users: int, longest: int, vocab: int) -> list[list[int]]:
    """Prompts of 200 to `longest` random ids, none of them special."""
    source = torch.Generator().manual_seed(0)
    lengths = torch.randint(200, longest + 1, (num_users,), generator=source).tolist()
    return [torch.randint(3, vocab, (n,), generator=source).tolist() for n in lengths]


class RowBudgets(StoppingCriteria):
    """Marks each row of the peer as done at the length that ours gave it."""

    def __init__(self, prompt_length: int, budgets: list[int]) -> None:
        self._ends = torch.tensor([prompt_length + budget for budget in budgets])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        return input_ids.shape[1] >= self._ends


class ChosenTokens(LogitsProcessor):
    """Makes the peer choose the tokens that ours sampled."""

    def __init__(self, prompt_length: int, tokens: list[list[int]]) -> None:
        self._prompt_length, self._tokens = prompt_length, tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        place = input_ids.shape[1] - self._prompt_length
        for row, tokens in enumerate(self._tokens):
            if place < len(tokens):
                scores[row, tokens[place]] = torch.inf
        return scores


def run_ours(
    model: DualHeadModel, encoder: PromptEncoder, prompts: list[list[int]], tokens: int, rows: int
) -> tuple[float, list[Completion]]:
    """Seconds and completions of the one-pass sampler."""
    settings = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=tokens)
    start = time.perf_counter()
    keys = [str(number) for number in range(len(prompts))]
    groups = sample(model, encoder, prompts, keys, settings, batch_rows=rows)
    return time.perf_counter() - start, [group[0] for group in groups]


def run_peer(
    model: DualHeadModel,
    encoder: PromptEncoder,
    prompts: list[list[int]],
    chosen: list[list[int]],
    rows: int,
) -> tuple[float, torch.Tensor, list[list[int]]]:
    """Seconds, user states and generated ids of `generate` and a second forward."""
    pad = encoder.tokenizer.pad_token_id
    states, written = [], []
    start = time.perf_counter()
    for first in range(0, len(prompts), rows):
        batch, tokens = prompts[first : first + rows], chosen[first : first + rows]
        ids, mask = pad_left(batch, pad)
        allowed = [len(row) for row in tokens]
        with torch.no_grad():
            output = model.causal_lm.generate(
                input_ids=torch.tensor(ids),
                attention_mask=torch.tensor(mask),
                logits_processor=[ChosenTokens(len(ids[0]), tokens)],
                stopping_criteria=[RowBudgets(len(ids[0]), allowed)],
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=max(allowed),
                    eos_token_id=sorted(encoder.stop_ids),
                    pad_token_id=pad,
                ),
            )
            new = [
                row[len(ids[0]) : len(ids[0]) + budget]
                for row, budget in zip(output.tolist(), allowed, strict=True)
            ]
            ends = [text[-len(encoder.marker_ids) :] == list(encoder.marker_ids) for text in new]
            whole = [
                [*prompt, *text, *([] if ended else encoder.marker_ids)]
                for prompt, text, ended in zip(batch, new, ends, strict=True)
            ]
            states.append(encode_rows(model, whole, pad_id=pad).float())
            written += new
    return time.perf_counter() - start, torch.cat(states), written


def main() -> None:
    """Run both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--users", type=int, default=256)
    parser.add_argument("--hidden-size", type=int, default=320)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rows", type=int, default=32)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.users, arguments.hidden_size, arguments.tokens = 24, 128, 32
    model, encoder = build(arguments.hidden_size)
    prompts = make_prompts(arguments.users, 600, len(encoder.tokenizer))
    run_ours(model, encoder, prompts[:2], 4, 2)
    seconds, ours = run_ours(model, encoder, prompts, arguments.tokens, arguments.rows)
    chosen = [completion.ids[: completion.num_sampled] for completion in ours]
    peer_seconds, states, written = run_peer(model, encoder, prompts, chosen, arguments.rows)
    own = torch.stack([completion.state_H for completion in ours])
    lengths = sorted(len(tokens) for tokens in chosen)
    figures = {
        "bench": "score",
        "ratio": round(peer_seconds / seconds, 3),
        "equal": written == chosen and bool((own - states).abs().max() < 1e-3),
        "users_per_second": round(arguments.users / seconds, 2),
        "peer_users_per_second": round(arguments.users / peer_seconds, 2),
        "reasoning_tokens": [lengths[0], lengths[len(lengths) // 2], lengths[-1]],
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "config": vars(arguments),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
