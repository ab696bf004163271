"""Decode steps of the sampler as a share of what memory allows.

A step reads all weights once and the keys and values of every row so far; at the bandwidth of a
plain copy on the same device that takes the least time a step can have. The sampler runs twice
over the same prompts, with few and with many new tokens: the difference is decoding alone, with all
that the host does between steps. Random weights of the shape of Qwen2.5-3B, so that no reasoning
ends before its budget. The last line is one JSON object; `ratio` is the share of the roof.

    python benchmarks/bench_decode.py            # a GPU with 24 GB or more
    python benchmarks/bench_decode.py --quick    # a small shape, on any machine
"""

import argparse
import json
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from r2ec.config import PromptConfig
from r2ec.model.checkpoint import encoder_for
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.scratch import train_tokenizer
from r2ec.model.slots import row_bytes
from r2ec.sampler import SamplingSettings, sample
from r2ec.text.tokens import PromptEncoder

SHAPES = {
    "qwen2.5-3b": {
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 11_008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
    "small": {
        "vocab_size": 4000,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


def build(shape: str, dtype: torch.dtype, device: str) -> tuple[DualHeadModel, PromptEncoder]:
    """A Qwen2 of random weights, made on the device itself, and an encoder with a marker."""
    config = AutoConfig.for_model(
        "qwen2", **SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=4096
    )
    torch.manual_seed(0)
    with torch.device(device):
        causal_lm = AutoModelForCausalLM.from_config(config, dtype=dtype)
    tokenizer = train_tokenizer(iter(["printer ink paper lamps <answer>"]), 300)
    encoder = encoder_for(tokenizer, marker="<answer>", prompt=PromptConfig(), stop_ids=[])
    return DualHeadModel(causal_lm, temperature=0.02).eval(), encoder


def copy_bandwidth(device: str) -> float:
    """Bytes read and written a second by a plain copy: the best of ten."""
    source = torch.ones((1 << 30 if device == "cuda" else 1 << 28), dtype=torch.uint8).to(device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        wait(device)
        start = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * source.numel() / best


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def decode_seconds(
    model: DualHeadModel, encoder: PromptEncoder, rows: int, context: int, few: int, many: int
) -> float:
    """Seconds of a step of all rows: the second of two runs, after one that warms up."""
    source = torch.Generator().manual_seed(0)
    vocab = model.config.vocab_size
    length = context - (few + many) // 2  # so that the steps measured lie around the context
    prompts = torch.randint(3, vocab, (rows, length), generator=source).tolist()
    keys = [str(row) for row in range(rows)]
    device = model.device.type

    def run(new_tokens: int) -> float:
        settings = SamplingSettings(
            temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new_tokens, seed=0
        )
        wait(device)
        start = time.perf_counter()
        groups = sample(
            model, encoder, prompts, keys, settings, batch_rows=rows, cache_bytes=1 << 40
        )
        wait(device)
        taken = time.perf_counter() - start
        if {group[0].num_sampled for group in groups} != {new_tokens}:
            raise RuntimeError("a reasoning ended before its budget: steps had fewer rows")
        return taken

    run(few)
    short, long = run(few), run(many)
    return (long - short) / (many - few)


def main() -> None:
    """Measure, print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small shape, under a minute")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--context", type=int, default=1000)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.quick:
        parser.error("there is no GPU here: --quick runs a small shape on the CPU")
    shape, dtype, few, many = "qwen2.5-3b", torch.bfloat16, 16, 80
    if arguments.quick:
        shape, dtype, few, many = "small", torch.float32, 4, 20
        arguments.rows, arguments.context = 16, 200
    model, encoder = build(shape, dtype, device)
    bandwidth = copy_bandwidth(device)
    seconds = decode_seconds(model, encoder, arguments.rows, arguments.context, few, many)
    weights = sum(p.numel() * p.element_size() for p in model.causal_lm.parameters())
    cache = arguments.rows * row_bytes(model.config, arguments.context, dtype)
    print(
        json.dumps(
            {
                "bench": "decode",
                "ratio": round((weights + cache) / bandwidth / seconds, 3),
                "tokens_per_second": round(arguments.rows / seconds, 1),
                "milliseconds_per_step": round(1000 * seconds, 3),
                "copy_gigabytes_per_second": round(bandwidth / 1e9, 1),
                "weight_bytes": weights,
                "cache_bytes": cache,
                "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
                "config": {"shape": shape, **vars(arguments)},
            }
        )
    )


if __name__ == "__main__":
    main()
