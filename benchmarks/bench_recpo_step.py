"""Seconds and peak memory of a RecPO update against a plain one, on the same rollouts and weights.

The plain update expands each group into rows with a prompt each, pads them to the longest, builds
the logits of the whole vocabulary at every place, and puts the best rollouts through the model a
second time for their user states. Both sides take the item rows from the same code, cut the batch
into micro-batches of the same number of rows, and give the gradient of every weight; these are
compared. Each side runs in a process of its own; memory is that process's peak (beside it, what
came on top of the weights and libraries). The last line is one JSON object: `ratio` is the plain
side's time over ours, `memory_ratio` our peak over the plain side's, at V = 150,000 and T = 256.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from r2ec.config import InitConfig
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.scratch import build_scratch_model, train_tokenizer
from r2ec.recpo import loss as terms
from r2ec.recpo.engine import Engine, World
from r2ec.recpo.items import ItemTable, LiveRows
from r2ec.recpo.rollout import Group, policy_pass
from r2ec.recpo.update import (
    UpdateBatch,
    UpdateSettings,
    build_samples,
    item_logprobs,
    old_item_logprobs,
    rows_per_micro_batch,
    update_policy,
)
from r2ec.sampler import Completion
from r2ec.tables import Example, History
from r2ec.text.tokens import pad_right

PAD = 0
NUM_ITEMS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One measurement: model, batch, and lengths in tokens."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_users: int
    group_size: int
    shortest_prompt: int
    longest_prompt: int
    longest_reasoning: int
    micro_batch_rows: int


SHAPES = {
    "time": Shape(
        vocab_size=8000,
        hidden_size=256,
        num_layers=4,
        num_users=8,
        group_size=4,
        shortest_prompt=200,
        longest_prompt=600,
        longest_reasoning=128,
        micro_batch_rows=8,
    ),
    "memory": Shape(
        vocab_size=150_000,
        hidden_size=128,
        num_layers=2,
        num_users=2,
        group_size=4,
        shortest_prompt=200,
        longest_prompt=300,
        longest_reasoning=256,
        micro_batch_rows=4,
    ),
    "quick": Shape(
        vocab_size=4000,
        hidden_size=128,
        num_layers=2,
        num_users=4,
        group_size=4,
        shortest_prompt=100,
        longest_prompt=200,
        longest_reasoning=48,
        micro_batch_rows=8,
    ),
}


class KeepingEngine(Engine):
    """The engine of training, whose step hands the gradient out and leaves the weights."""

    gradients: dict[str, Tensor]

    def step(self, lr: float) -> float | None:
        """Take the gradients away."""
        self.gradients = {}
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                self.gradients[name] = parameter.grad.detach().clone()
            parameter.grad = None
        return None


def build_model(shape: Shape) -> DualHeadModel:
    """A Qwen2-shaped model of random weights; the vocabulary is padded to its size."""
    tokenizer = train_tokenizer(iter(["printer ink paper lamps"]), 300)
    config = InitConfig(
        vocab_size=300,
        hidden_size=shape.hidden_size,
        intermediate_size=3 * shape.hidden_size,
        num_layers=shape.num_layers,
        initializer_range=0.05,
    )
    causal = build_scratch_model(config, tokenizer)
    torch.manual_seed(1)
    causal.resize_token_embeddings(shape.vocab_size, mean_resizing=False)
    return DualHeadModel(causal, temperature=0.1).eval()


def make_groups(model: DualHeadModel, shape: Shape, temperature: float) -> list[Group]:
    """Rollouts of random ids; the log-probabilities as of weights that have moved since."""
    source = torch.Generator().manual_seed(0)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=source))

    def ids(length: int) -> list[int]:
        return torch.randint(3, shape.vocab_size, (length,), generator=source).tolist()

    groups = []
    for user in range(shape.num_users):
        prompt = ids(number(shape.shortest_prompt, shape.longest_prompt))
        bare = []
        for _ in range(shape.group_size):
            sampled = number(shape.longest_reasoning // 8, shape.longest_reasoning)
            bare.append(
                Completion(
                    prompt_ids=prompt,
                    ids=ids(sampled + 3),
                    num_sampled=sampled,
                    finish_reason="length",
                    logprobs_T=torch.zeros(sampled),
                    state_H=torch.zeros(shape.hidden_size),
                    support_TK=None,
                )
            )
        with torch.no_grad():
            figures = policy_pass(model, bare, pad_id=PAD, temperature=temperature)
        completions = []
        for row, completion in enumerate(bare):
            logprobs_T = figures.logprobs_T[figures.row_T == row]
            moved_T = 0.2 * torch.randn(logprobs_T.shape, generator=source)
            completions.append(
                Completion(
                    prompt_ids=prompt,
                    ids=completion.ids,
                    num_sampled=completion.num_sampled,
                    finish_reason="length",
                    logprobs_T=logprobs_T + moved_T,
                    state_H=figures.state_NH[row],
                    support_TK=None,
                )
            )
        history = History(
            user_id=str(user), item_index=(user,), rating=(None,), time=(0,), now=1, history_hash=""
        )
        example = Example(sequence_id=user, history=history, target_index=100 + user)
        groups.append(Group(example=example, completions=completions))
    return groups


def plain_update(
    engine: Engine,
    batch: UpdateBatch,
    live: LiveRows,
    table: ItemTable,
    old_items: dict[int, float],
    settings: UpdateSettings,
) -> None:
    """The same loss by expanded, padded rows, whole logits and a second forward."""
    model = engine.model
    size = rows_per_micro_batch(settings.micro_batch_rows, batch.group_size)
    share = 1.0 / (batch.num_users * batch.group_size)
    for start in range(0, len(batch.samples), size):
        samples = batch.samples[start : start + size]
        rows = [[*s.completion.prompt_ids, *s.completion.ids] for s in samples]
        ids, mask = pad_right(rows, PAD)
        ids_NL, mask_NL = torch.tensor(ids), torch.tensor(mask)
        logits_NLV = model.causal_lm(
            input_ids=ids_NL, attention_mask=mask_NL, use_cache=False
        ).logits
        logprobs_NLV = (logits_NLV.float() / settings.temperature).log_softmax(dim=-1)
        picked_NL = logprobs_NLV[:, :-1].gather(2, ids_NL[:, 1:, None]).squeeze(2)
        old_NL, sampled_NL = torch.zeros_like(picked_NL), torch.zeros_like(picked_NL)
        for row, sample in enumerate(samples):
            first = len(sample.completion.prompt_ids) - 1
            old_NL[row, first : first + sample.completion.num_sampled] = (
                sample.completion.logprobs_T
            )
            sampled_NL[row, first : first + sample.completion.num_sampled] = 1.0
        advantages_N1 = torch.tensor([[sample.advantage] for sample in samples])
        token_NL, _ = terms.clipped_objective(
            picked_NL,
            old_NL,
            advantages_N1.expand_as(picked_NL),
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
        )
        loss = (token_NL * sampled_NL).sum() * share
        best = [row for row, sample in enumerate(samples) if sample.is_best]
        if best:
            hidden_BLH = model.causal_lm(
                input_ids=ids_NL[best],
                attention_mask=mask_NL[best],
                use_cache=False,
                output_hidden_states=True,
                logits_to_keep=1,
            ).hidden_states[-1]
            states_BH = hidden_BLH[torch.arange(len(best)), mask_NL[best].sum(dim=1) - 1].float()
            users = [batch.groups[samples[row].user] for row in best]
            new_B = item_logprobs(model, states_BH, users, live, table, settings.item_softmax)
            old_B = torch.tensor([old_items[samples[row].user] for row in best])
            item_B, _ = terms.clipped_objective(
                new_B,
                old_B,
                advantages_N1[best, 0],
                clip_low=settings.clip_low,
                clip_high=settings.clip_high,
            )
            loss = loss + settings.item_weight * item_B.sum() * share
        engine.backward(loss)
    live.backward(settings.micro_batch_rows)
    engine.step(0.0)


def measure(side: str, shape: Shape, repeats: int, target: Path) -> None:
    """Run one side `repeats` times after one to warm up; figures and gradients go to `target`."""
    torch.set_num_threads(2)
    model = build_model(shape)
    engine = KeepingEngine(World(), model, zero_stage=0, gradient_clipping=1e9, weight_decay=0.0)
    settings = UpdateSettings(
        temperature=1.3,
        clip_low=0.2,
        clip_high=0.2,
        token_norm="none",
        token_weight=1.0,
        item_weight=4.0,
        item_softmax="in_batch",
        kl_weight=0.0,
        micro_batch_rows=shape.micro_batch_rows,
    )
    groups = make_groups(model, shape, settings.temperature)
    source = torch.Generator().manual_seed(2)
    items = [torch.randint(3, 300, (20,), generator=source).tolist() for _ in range(NUM_ITEMS)]
    table = ItemTable(engine.world, items, PAD)
    advantages_BG = torch.randn(shape.num_users, shape.group_size, generator=source)
    rows = shape.num_users * shape.group_size
    size = rows_per_micro_batch(shape.micro_batch_rows, shape.group_size)
    batch = UpdateBatch(
        groups=groups,
        samples=build_samples(groups, advantages_BG, skip_equal=True),
        targets_C=[group.target_index for group in groups],
        num_users=shape.num_users,
        group_size=shape.group_size,
        mean_tokens=1.0,
        num_chunks=-(-rows // size),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        live = LiveRows(engine, table, batch.targets_C)
        old = old_item_logprobs(model, batch, live, table, settings.item_softmax)
        if side == "ours":
            update_policy(engine, batch, live, table, old, settings, pad_id=PAD, lr=0.0)
        else:
            plain_update(engine, batch, live, table, old, settings)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {"seconds": min(seconds[1:] or seconds), "peak": peak, "added": peak - before}
    torch.save({"figures": figures, "gradients": engine.gradients}, target)


def compare(name: str, repeats: int) -> dict[str, object]:
    """Both sides of one shape, in processes of their own."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in ("plain", "ours"):
            target = Path(folder, side)
            command = [sys.executable, __file__, "--side", side, "--shape", name]
            subprocess.run(
                [*command, "--repeats", str(repeats), "--target", str(target)], check=True
            )
            results[side] = torch.load(target, weights_only=True)
    plain, ours = results["plain"], results["ours"]
    largest = max(value.abs().max().item() for value in plain["gradients"].values())
    difference = max(
        (ours["gradients"][key] - value).abs().max().item()
        for key, value in plain["gradients"].items()
    )
    return {
        "ratio": round(plain["figures"]["seconds"] / ours["figures"]["seconds"], 2),
        "memory_ratio": round(ours["figures"]["peak"] / plain["figures"]["peak"], 3),
        "added_memory_ratio": round(ours["figures"]["added"] / plain["figures"]["added"], 3),
        "seconds": round(ours["figures"]["seconds"], 3),
        "plain_seconds": round(plain["figures"]["seconds"], 3),
        "peak_memory_bytes": ours["figures"]["peak"],
        "plain_peak_memory_bytes": plain["figures"]["peak"],
        "gradient_difference": difference / largest,
        "equal": difference / largest < 1e-5,
    }


def main() -> None:
    """Measure the shapes, print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=["plain", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--shape", choices=sorted(SHAPES), help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        measure(arguments.side, SHAPES[arguments.shape], arguments.repeats, arguments.target)
        return
    names = ["quick"] if arguments.quick else ["time", "memory"]
    parts = {name: compare(name, arguments.repeats) for name in names}
    figures = {
        "bench": "recpo_step",
        "ratio": parts[names[0]]["ratio"],
        "memory_ratio": parts[names[-1]]["memory_ratio"],
        "equal": all(part["equal"] for part in parts.values()),
        "parts": parts,
        "config": {"quick": arguments.quick, "repeats": arguments.repeats},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
