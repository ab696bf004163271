"""Settings of training and scoring: sparse TOML by hand, checked here, saved beside outputs.

A key that is not known is an error, never ignored. Components take plain values; only the outermost
`run(config)` functions see these classes.
"""

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from r2ec.errors import NotReadyError, UsageError

T = TypeVar("T", bound=BaseModel)


class Section(BaseModel):
    """A part of the configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PathsConfig(Section):
    """Where things are read and written; relative paths start at the working directory."""

    warehouse: str = "warehouse"
    base_model: str = "model-base"
    output: str = "model"
    run_dir: str = ""

    @property
    def resolved_run_dir(self) -> Path:
        """Folder of checkpoints, curves and metric lines: `run_dir`, or `<output>.run`."""
        return Path(self.run_dir or f"{self.output}.run")


class PromptConfig(Section):
    """How histories and items are put into words; part of the model (saved in `r2ec.json`)."""

    history_items: int = Field(20, ge=1)
    title_chars: int = Field(120, ge=8)
    description_chars: int = Field(240, ge=0)
    max_prompt_tokens: int = Field(1024, ge=32)


class LoraConfig(Section):
    """Low-rank adapters (peft) on attention and MLP projections; rank 0 trains all weights."""

    rank: int = Field(0, ge=0)
    alpha: int = Field(128, gt=0)
    target_modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )


class ModelConfig(Section):
    """The dual-head model: temperature of the item softmax, answer marker, weights' dtype."""

    tau: float = Field(0.02, gt=0)
    marker: str = "<answer>"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    lora: LoraConfig = LoraConfig()

    @field_validator("marker")
    @classmethod
    def marker_is_plain_text(cls, marker: str) -> str:
        """The marker is found in decoded text, so it must be printable ASCII without blanks."""
        if len(marker) < 3 or not marker.isascii() or not marker.isprintable() or " " in marker:
            raise ValueError(f"{marker!r} must be 3 or more printable ASCII characters, no blank")
        return marker


class SamplingConfig(Section):
    """How reasonings are sampled. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off."""

    temperature: float = Field(1.5, ge=0)
    top_k: int = Field(200, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(512, ge=0)
    batch_rows: int = Field(256, ge=1)


class ContrastiveConfig(Section):
    """First stage: user states against in-batch target items (InfoNCE), with the language kept."""

    steps: int = Field(0, ge=0)
    batch_users: int = Field(128, ge=2)
    micro_batch_users: int = Field(64, ge=1)
    lr: float = Field(1e-3, gt=0)
    warmup_steps: int = Field(20, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    lm_weight: float = Field(0.0, ge=0)
    reasoning_share: float = Field(0.0, ge=0, le=1)
    rationale_share: float = Field(0.0, ge=0, le=1)
    history_dropout: float = Field(0.0, ge=0, lt=1)
    eval_every: int = Field(50, ge=1)
    patience: int = Field(0, ge=0)
    max_seconds: float = Field(0.0, ge=0)
    max_cpu_seconds: float = Field(0.0, ge=0)


class RecpoConfig(Section):
    """Second stage: reinforcement learning of reasoning and ranking (method: RecPO)."""

    steps: int = Field(0, ge=0)
    batch_users: int = Field(24, ge=1)
    group_size: int = Field(4, ge=2)
    micro_batch_rows: int = Field(16, ge=1)
    lr: float = Field(1e-5, gt=0)
    warmup_steps: int = Field(32, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    updates_per_rollout: int = Field(1, ge=1)
    advantage: Literal["grpo", "rloo"] = "grpo"
    beta: float = Field(0.05, ge=0, le=1)
    reward_cutoff: int = Field(1000, ge=1)
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.2, gt=0)
    support: Literal["full", "top_k"] = "full"
    token_norm: Literal["none", "length", "batch"] = "none"
    token_weight: float = Field(1.0, ge=0)
    item_weight: float = Field(1.0, ge=0)
    item_softmax: Literal["in_batch", "catalog"] = "in_batch"
    kl_weight: float = Field(0.0, ge=0)
    refresh_every: int = Field(10, ge=1)
    log_reasonings_every: int = Field(25, ge=1)
    eval_every: int = Field(50, ge=1)
    patience: int = Field(0, ge=0)
    max_seconds: float = Field(0.0, ge=0)
    max_cpu_seconds: float = Field(0.0, ge=0)
    sampling: SamplingConfig = SamplingConfig()


class InBatchConfig(Section):
    """The softmax over the batch's targets, in both stages.

    A batch holds popular items more often than the catalog does; `popularity_correction` times the
    log of an item's share of the training targets is taken off its logit, so that with 1 the
    softmax estimates that over the whole catalog, with 0 it is left as it is.
    """

    popularity_correction: float = Field(1.0, ge=0, le=1)


class EngineConfig(Section):
    """DeepSpeed: ZeRO stage, gradient clipping, how long a rank waits for a silent peer."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    gradient_clipping: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = False
    timeout_seconds: float = Field(1800.0, gt=0)


class CheckpointConfig(Section):
    """How often training state is saved, and how many are kept."""

    every_steps: int = Field(50, ge=1)
    keep: int = Field(2, ge=1)


class EvaluationConfig(Section):
    """Greedy evaluation on held-out sequences; cut-offs are options of `r2ec-cli evaluate`.

    `at_end` evaluates the delivered model on all of valid and test, into the table `metrics`.
    """

    max_valid_users: int = Field(2000, ge=1)
    reasoning_budget: int = Field(64, ge=0)
    at_end: bool = True
    batch_rows: int = Field(256, ge=1)


class TrainConfig(Section):
    """Everything `r2ec-cli train` needs; the defaults are the settings of the paper."""

    seed: int = 0
    paths: PathsConfig = PathsConfig()
    prompt: PromptConfig = PromptConfig()
    model: ModelConfig = ModelConfig()
    contrastive: ContrastiveConfig = ContrastiveConfig()
    recpo: RecpoConfig = RecpoConfig()
    in_batch: InBatchConfig = InBatchConfig()
    engine: EngineConfig = EngineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def longest_reasoning(self) -> tuple[int, str]:
        """The longest reasoning of a run in tokens, and the setting that it comes from."""
        budgets = [(self.evaluation.reasoning_budget, "evaluation.reasoning_budget")]
        if self.recpo.steps:
            budgets.append((self.recpo.sampling.max_new_tokens, "recpo.sampling.max_new_tokens"))
        return max(budgets)

    @model_validator(mode="after")
    def settings_have_an_effect(self) -> "TrainConfig":
        """A setting that could not have an effect is refused rather than ignored."""
        for fault in (
            *_faults_of_contrastive(self.contrastive),
            *(_faults_of_recpo(self.recpo) if self.recpo.steps else ()),
            *_faults_of_lora(self.model.lora),
        ):
            raise ValueError(fault)
        if self.recpo.support == "top_k" and self.recpo.sampling.top_k == 0:
            raise ValueError("recpo.support = 'top_k' needs recpo.sampling.top_k above 0")
        for name, stage in (("contrastive", self.contrastive), ("recpo", self.recpo)):
            for key in ("patience", "max_seconds", "max_cpu_seconds"):
                if getattr(stage, key) and not stage.steps:
                    raise ValueError(f"{name}.{key} has no effect with {name}.steps = 0")
        return self


def _faults_of_contrastive(stage: ContrastiveConfig) -> Iterator[str]:
    """The language loss is on pretended reasonings alone, and rationales are a share of those."""
    for key in ("lm_weight", "rationale_share"):
        if getattr(stage, key) and not stage.reasoning_share:
            yield f"contrastive.{key} has no effect with contrastive.reasoning_share = 0"


def _faults_of_recpo(stage: RecpoConfig) -> Iterator[str]:
    if stage.sampling.temperature == 0:
        yield "recpo.sampling.temperature 0 samples one reasoning G times; set > 0"
    if stage.sampling.max_new_tokens == 0:
        yield (
            "recpo.sampling.max_new_tokens 0: without a reasoning the rollouts of a group are all"
            " alike, and nothing trains; set > 0, or recpo.steps = 0"
        )
    if stage.token_weight == 0 and stage.item_weight == 0:
        yield "recpo.token_weight and recpo.item_weight are both 0: nothing trains"
    if stage.item_weight == 0 and stage.item_softmax != "in_batch":
        yield "recpo.item_softmax = 'catalog' has no effect with recpo.item_weight = 0"
    if stage.item_weight and stage.item_softmax == "in_batch" and stage.batch_users == 1:
        yield (
            "recpo.item_softmax = 'in_batch' has no effect with recpo.batch_users = 1: a target has"
            " no others to compete with; set more users, 'catalog', or recpo.item_weight = 0"
        )


def _faults_of_lora(lora: LoraConfig) -> Iterator[str]:
    for key in ("alpha", "target_modules"):
        if not lora.rank and getattr(lora, key) != getattr(LoraConfig(), key):
            yield f"model.lora.{key} has no effect with model.lora.rank = 0"


class InitConfig(Section):
    """A small base model made from scratch: shape, tokenizer and language-model warm-up."""

    family: Literal["qwen2", "qwen3", "gemma2", "llama"] = "qwen2"
    vocab_size: int = Field(4000, ge=300)
    hidden_size: int = Field(128, ge=16)
    intermediate_size: int = Field(384, ge=16)
    num_layers: int = Field(2, ge=1)
    num_heads: int = Field(4, ge=1)
    num_kv_heads: int = Field(2, ge=1)
    max_positions: int = Field(2048, ge=128)
    initializer_range: float = Field(0.05, gt=0)
    warmup_steps: int = Field(300, ge=0)
    warmup_batch: int = Field(32, ge=1)
    warmup_lr: float = Field(2e-3, gt=0)
    seed: int = 0


class _InitFile(Section):
    init: InitConfig = InitConfig()


def load_train_config(path: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a training TOML; `overrides` are `section.key=value` with a TOML value.

    Raises `UsageError` naming the file, the key and what was expected, `NotReadyError` if absent.
    """
    raw = _read_toml(path)
    raw.pop("init", None)
    return _validate(TrainConfig, raw, path, overrides)


def load_init_config(path: str | None, overrides: Sequence[str] = ()) -> InitConfig:
    """Read the `[init]` section of a TOML for `init-model`; the defaults where there is none.

    `overrides` are `init.key=value`. Raises as `load_train_config`.
    """
    raw = {"init": _read_toml(path).get("init", {}) if path else {}}
    return _validate(_InitFile, raw, path or "the defaults", overrides).init


def _read_toml(path: str) -> dict[str, Any]:
    file = Path(path)
    if not file.is_file():
        raise NotReadyError(f"config file {path} does not exist; see configs/ for examples")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def _validate(kind: type[T], raw: dict[str, Any], path: str, overrides: Sequence[str]) -> T:
    for override in overrides:
        _apply(raw, override)
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [_told(item["loc"], item["msg"], item["input"]) for item in error.errors()]
        raise UsageError(f"{path}: these settings are wrong:\n" + "\n".join(lines)) from error


def _told(place: tuple[int | str, ...], message: str, value: Any) -> str:
    """A line for people; where settings do not fit together the message names them itself."""
    message = message.removeprefix("Value error, ")
    return f"  {'.'.join(map(str, place))}: {message} (got {value!r})" if place else f"  {message}"


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in the nested dictionary; bare words count as strings."""
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise UsageError(f"--set {override!r}: write section.key=value, e.g. recpo.steps=10")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, key = name.split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise UsageError(f"--set {override!r}: {section} is a value, not a section")
    raw[key] = value
