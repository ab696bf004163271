"""DeepSpeed around one model: the only place that imports it.

A loss passed to `backward` is this rank's share of a global mean: its denominators already span
ranks and micro-batches. DeepSpeed averages gradients over the ranks, so the loss is multiplied by
their number; the gradient is then the sum of the shares, the same for any cut of the batch.

Every rank must call `backward` the same number of times in a step (ZeRO 2 and 3 reduce at each
call), after the same calls of the model's layers (ZeRO 3 gathers the weights at each of them).
"""

import atexit
import contextlib
import gc
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from r2ec.errors import NotReadyError, R2ecError
from r2ec.model.dual_head import DualHeadModel
from r2ec.recpo.checkpoints import (
    MANIFEST,
    digests,
    newest_whole,
    read_manifest,
    remove_older,
    staging_of,
)
from r2ec.recpo.finite import check_norm


class World:
    """The processes of a run. Created once; `close` at the end."""

    def __init__(self, timeout_seconds: float = 1800.0) -> None:
        """Meet the other processes; a lost one ends this one after `timeout_seconds` at most."""
        for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
            os.environ.setdefault(name, value)
        self.cuda = torch.cuda.is_available()
        if self.cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        else:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        _quiet()
        import deepspeed

        if not self.cuda:
            # Its shared-memory all-reduce is compiled at first use: half a minute and a C++
            # compiler, to spare gloo a few small messages.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        backend, timeout = "nccl" if self.cuda else "gloo", timedelta(seconds=timeout_seconds)
        is_alone = int(os.environ["WORLD_SIZE"]) == 1 and "MASTER_PORT" not in os.environ
        if is_alone and not dist.is_initialized():
            # Nobody to meet: no port that another process could have or inherit.
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
            atexit.register(_end_group)
        deepspeed.init_distributed(
            backend, auto_mpi_discovery=False, verbose=False, timeout=timeout
        )
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @property
    def device(self) -> str:
        """This rank's device."""
        return f"cuda:{os.environ['LOCAL_RANK']}" if self.cuda else "cpu"

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and logs."""
        return self.rank == 0

    def on_first(self, work: Callable[[], object]) -> None:
        """Do work on the first rank; what a person can mend there is raised on all, none waits."""
        failed = None
        if self.is_first:
            try:
                work()
            except R2ecError as error:
                failed = error
        failed = self.gather(failed)[0]
        if failed is not None:
            raise failed

    def share(self, rows: list[Any]) -> list[Any]:
        """This rank's rows of a global list: every `size`-th from `rank`."""
        return rows[self.rank :: self.size]

    def largest_share(self, num_rows: int) -> int:
        """Rows of the rank that has most of `num_rows`."""
        return -(-num_rows // self.size)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable value, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_rows(self, local_NH: Tensor, num_rows: int) -> Tensor:
        """Rows of a list cut by `share`, put together again in the global order, without gradient.

        `num_rows` is the length of the global list; every rank gets the same (num_rows, H).
        """
        parts = self.gather(local_NH.detach().cpu())
        whole = torch.empty(num_rows, *local_NH.shape[1:], dtype=local_NH.dtype)
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole.to(local_NH.device)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        """End the process group; that of a process alone stays until its end.

        DeepSpeed keeps groups of its own for good, which a second training in one process needs.
        """
        if self.size > 1:
            _end_group()


class Engine:
    """A model under DeepSpeed with AdamW; learning rates are given at each step."""

    def __init__(
        self,
        world: World,
        model: DualHeadModel,
        *,
        zero_stage: int,
        gradient_clipping: float,
        weight_decay: float,
        whole_up_to: int = 100_000,
    ) -> None:
        """Under ZeRO 3, weights of at most `whole_up_to` elements stay whole on every rank."""
        import deepspeed

        parameters = [p for p in model.parameters() if p.requires_grad]
        bf16 = any(p.dtype == torch.bfloat16 for p in parameters)
        optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=weight_decay)
        self.world, self.model = world, model
        is_plain = zero_stage == 0 and not bf16
        self._own_norm: float | None = None
        self._is_partitioned = zero_stage == 3
        self._is_whole = False
        self._last: Path | None = None
        self.num_gathers = 0
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "managed_gradient_accumulation": False,
                "gradient_clipping": 0.0 if is_plain else gradient_clipping,
                "zero_optimization": {
                    "stage": zero_stage,
                    "stage3_param_persistence_threshold": whole_up_to,
                },
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "bf16": {"enabled": bf16},
                "steps_per_print": 1_000_000_000,
            },
        )

        if is_plain:
            # The one case in which DeepSpeed does not tell the norm: clip, and tell, on our own.
            def clip(*_: object) -> None:
                norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clipping)
                self._own_norm = float(norm)
                check_norm(self._own_norm)

            optimizer.register_step_pre_hook(clip)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's share of the global loss."""
        if self._is_partitioned:
            # ZeRO 3 adds a gradient to the earlier ones of a step only if it was told that another
            # pass begins; else it takes their place. Its own forward would tell, but the losses
            # here are made of parts of the model.
            self._engine.optimizer.clear_backward_seen_flag()
        self._engine.backward(loss * self.world.size, scale_wrt_gas=False)

    @contextlib.contextmanager
    def whole_weights(self) -> Iterator[None]:
        """All weights on every rank, gathered once, for work without gradient; all ranks enter.

        Nothing to do under ZeRO 0 to 2, or within another `whole_weights`. `num_gathers` counts.
        """
        if not self._is_partitioned or self._is_whole:
            yield
            return
        from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

        self.num_gathers += 1
        self._is_whole = True
        try:
            with unwrap_model_for_generation(self._engine):
                yield
        finally:
            self._is_whole = False

    def step(self, lr: float) -> float | None:
        """One optimizer step at this learning rate; returns the gradient norm before clipping.

        Raises `R2ecError` on all ranks where the gradient is not finite; the weights have not moved
        then.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        norm = self._engine.get_global_grad_norm() if self._own_norm is None else self._own_norm
        norm = None if norm is None else float(norm)
        # DeepSpeed passes over such a step in silence.
        check_norm(norm)
        return norm

    def save(self, folder: Path, state: dict[str, Any], tensors: dict[str, Any], keep: int) -> None:
        """Write a checkpoint in one act and leave only the newest `keep` beside it.

        `state` is JSON, `tensors` anything `torch.save` takes (written by the first rank). The one
        that was written or loaded last is left alone: nothing has changed since, and a process
        killed while it wrote the same once more would lose it.
        """
        if folder == self._last:
            return
        staging = staging_of(folder)
        if self.world.is_first:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        self.world.barrier()
        self._engine.save_checkpoint(str(staging), tag="engine", save_latest=False)
        self.world.barrier()
        if self.world.is_first:
            torch.save(tensors, staging / "tensors.pt")
            manifest = {"state": state, "world_size": self.world.size, "files": digests(staging)}
            (staging / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            staging.rename(folder)
            remove_older(folder, keep)
        self.world.barrier()
        self._last = folder

    def load(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Restore weights and optimizer; returns `state` and `tensors` as saved.

        Raises `NotReadyError` if the checkpoint was written by another number of processes.
        """
        manifest = read_manifest(folder)
        if manifest["world_size"] != self.world.size:
            raise NotReadyError(
                f"{folder} was written by {manifest['world_size']} processes, this run has"
                f" {self.world.size}; resume with the same number"
            )
        self._engine.load_checkpoint(str(folder), tag="engine")
        tensors: dict[str, Any] = torch.load(folder / "tensors.pt", weights_only=True)
        state: dict[str, Any] = manifest["state"]
        self._last = folder
        return state, tensors

    def close(self) -> None:
        """Let go of weights, gradients and optimizer state, once a stage is over.

        DeepSpeed's hooks keep them for good otherwise, beside those of the next stage.
        """
        from deepspeed.runtime.zero import parameter_offload

        self._engine.destroy()
        # Of modules whose forward is under way; parts of ours are called without the whole.
        parameter_offload.FWD_MODULE_STACK.clear()
        del self._engine, self._optimizer, self.model
        gc.collect()
        if self.world.cuda:
            torch.cuda.empty_cache()

    def newest(self, folder: Path) -> Path | None:
        """The newest whole checkpoint in a stage's folder, the same on all ranks.

        The first rank reads every byte; a broken one is passed over with a warning, one that was
        not written to its end is removed with one.
        """
        found = newest_whole(folder) if self.world.is_first else None
        chosen: Path | None = self.world.gather(found)[0]
        return chosen


def _end_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _quiet() -> None:
    """DeepSpeed logs every setting of its own at INFO; keep its warnings, but for those that it
    draws from torch by older names of two functions."""
    warnings.filterwarnings(
        "ignore", r"`torch\.distributed\.\w+_tensor` is deprecated", FutureWarning
    )
    os.environ.setdefault("DS_LOG_LEVEL", "warning")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
