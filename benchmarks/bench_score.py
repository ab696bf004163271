"""Users per second of the one-pass sampler against `generate` plus a second forward.

Same weights, same prompts, same tokens: ours samples, and the peer is made to choose what ours
sampled. The peer runs `transformers` generate on the padded batch to the longest row, then
puts prompt, reasoning and marker through the model again for the user state. A second peer,
`paged`, is the continuous batching of transformers (what `generate_batch` runs on), told to write
as many tokens for each prompt as ours did, as it cannot be told which, and the second forward.

Random weights end a reasoning at any token with a chance of 1 in 50, so lengths are spread as the
geometric distribution is, cut at the budget; `reasoning_tokens` has the 9th, 45th and 91st
percentile. The last line is one JSON object; `ratio` is the peer's time over ours, `paged_ratio`
that of the second peer, `memory_ratio` our peak of resident memory over the first one's. A quick
run has a smaller model and fewer users, the lengths stay.
"""

import argparse
import gc
import json
import re
import time
from pathlib import Path

import torch
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    LogitsProcessor,
    StoppingCriteria,
)

from r2ec.config import InitConfig, PromptConfig
from r2ec.model.checkpoint import encoder_for
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.scratch import build_scratch_model, train_tokenizer
from r2ec.retrieval.embed import encode_rows
from r2ec.sampler import Completion, SamplingSettings, sample
from r2ec.text.tokens import PromptEncoder, pad_left

_MEAN_TOKENS = 50  # of a reasoning, before it is cut at the budget


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
    stops = range(len(tokenizer) // 2, len(tokenizer) // 2 + len(tokenizer) // _MEAN_TOKENS)
    return model, encoder_for(
        tokenizer, marker="<answer>", prompt=PromptConfig(), stop_ids=list(stops)
    )


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
        states.append(second_forward(model, encoder, batch, new))
        written += new
    return time.perf_counter() - start, torch.cat(states), written


class PeakMemory:
    """Bytes of resident memory at the worst moment since the last `reset`, on Linux."""

    def reset(self) -> None:
        """Begin anew from what is resident now."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        """The most since then."""
        text = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) * 1024


def second_forward(
    model: DualHeadModel, encoder: PromptEncoder, prompts: list[list[int]], new: list[list[int]]
) -> torch.Tensor:
    """User states (B, H) of prompts with what was written, and the marker where it is missing."""
    marker = list(encoder.marker_ids)
    whole = [
        [*prompt, *text, *([] if text[-len(marker) :] == marker else marker)]
        for prompt, text in zip(prompts, new, strict=True)
    ]
    with torch.no_grad():
        return encode_rows(model, whole, pad_id=encoder.tokenizer.pad_token_id).float()


def run_paged(
    model: DualHeadModel,
    encoder: PromptEncoder,
    prompts: list[list[int]],
    chosen: list[list[int]],
    rows: int,
) -> float:
    """Seconds of continuous batching to the same lengths, and a second forward."""
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
    tokens = sum(map(len, prompts)) + sum(map(len, chosen))
    settings = ContinuousBatchingConfig(
        page_size=32,
        num_blocks=tokens // 32 + 2 * len(prompts),  # room for all
        max_batch_tokens=2048,
        max_requests_per_batch=rows,
    )
    written: dict[str, list[int]] = {}
    start = time.perf_counter()
    with model.causal_lm.continuous_batching_context_manager(
        generation_config=greedy, continuous_batching_config=settings
    ) as manager:
        for number, (prompt, text) in enumerate(zip(prompts, chosen, strict=True)):
            manager.add_request(prompt, request_id=str(number), max_new_tokens=len(text))
        while len(written) < len(prompts):
            done = manager.get_result(timeout=60)
            if done is None:
                raise SystemExit("continuous batching gave no result within a minute")
            if done.is_finished():
                written[done.request_id] = done.generated_tokens
        new = [written[str(number)] for number in range(len(prompts))]
        for first in range(0, len(prompts), rows):
            second_forward(model, encoder, prompts[first : first + rows], new[first : first + rows])
        seconds = time.perf_counter() - start
    assert [len(text) for text in new] == [len(text) for text in chosen]
    return seconds


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
        arguments.users, arguments.hidden_size, arguments.rows = 48, 192, 16
    model, encoder = build(arguments.hidden_size)
    prompts = make_prompts(arguments.users, 600, len(encoder.tokenizer))
    _, few = run_ours(model, encoder, prompts[:2], 4, 2)
    run_peer(model, encoder, prompts[:2], [c.ids[: c.num_sampled] for c in few], 2)
    memory = PeakMemory()
    memory.reset()
    seconds, ours = run_ours(model, encoder, prompts, arguments.tokens, arguments.rows)
    peak = memory.bytes()
    chosen = [completion.ids[: completion.num_sampled] for completion in ours]
    memory.reset()
    peer_seconds, states, written = run_peer(model, encoder, prompts, chosen, arguments.rows)
    peer_peak = memory.bytes()
    paged_seconds = run_paged(model, encoder, prompts, chosen, arguments.rows)
    own = torch.stack([completion.state_H for completion in ours])
    lengths = sorted(len(tokens) for tokens in chosen)
    figures = {
        "bench": "score",
        "ratio": round(peer_seconds / seconds, 3),
        "memory_ratio": round(peak / peer_peak, 3),
        "paged_ratio": round(paged_seconds / seconds, 3),
        "equal": written == chosen and bool((own - states).abs().max() < 1e-3),
        "users_per_second": round(arguments.users / seconds, 2),
        "peer_users_per_second": round(arguments.users / peer_seconds, 2),
        "paged_users_per_second": round(arguments.users / paged_seconds, 2),
        "reasoning_tokens": [lengths[len(lengths) * tenth // 11] for tenth in (1, 5, 10)],
        "peak_memory_bytes": peak,
        "peer_peak_memory_bytes": peer_peak,
        "config": vars(arguments),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
