"""What decides the rows of a scoring run beside model, catalog and histories."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from r2ec.errors import UsageError
from r2ec.model.choice import SamplingSettings
from r2ec.tables import Catalog

MAX_TOP_K = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSettings:
    """What decides the rows of a run beside model, catalog and histories.

    `top_k` items a user, at most `reasoning_budget` tokens a reasoning. Raises `UsageError` for a
    `top_k` outside 1 … 1000, for sampling settings that are out of range or without a temperature.
    """

    reasoning_budget: int
    top_k: int = 10
    temperature: float = 0.0
    seed: int = 0
    categories: tuple[str, ...] = ()
    exclude_items: tuple[str, ...] = ()
    exclude_stores: tuple[str, ...] = ()
    allow_repeat: bool = False
    sampling_top_k: int = 0
    sampling_top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= MAX_TOP_K:
            raise UsageError(f"--top-k {self.top_k}: give 1 to {MAX_TOP_K}")
        try:
            self.sampling()
        except ValueError as error:
            raise UsageError(f"sampling of reasonings: {error}") from error
        if self.temperature == 0 and (self.sampling_top_k or self.sampling_top_p < 1):
            raise UsageError(
                "--sampling-top-k and --sampling-top-p have no effect with --temperature 0, which"
                " takes the likeliest token"
            )

    def sampling(self) -> SamplingSettings:
        """How the reasonings are sampled."""
        return SamplingSettings(
            temperature=self.temperature,
            top_k=self.sampling_top_k,
            top_p=self.sampling_top_p,
            max_new_tokens=self.reasoning_budget,
            seed=self.seed,
        )

    def described(self) -> dict[str, object]:
        """The settings as JSON values, as `runs` keeps them; a list of items as its fingerprint."""
        values: dict[str, object] = asdict(self)
        for name in ("categories", "exclude_items", "exclude_stores"):
            values[name] = sorted(set(getattr(self, name)))
        if self.exclude_items:
            digest = hashlib.sha256(json.dumps(values["exclude_items"]).encode()).hexdigest()[:16]
            values["exclude_items"] = f"{len(set(self.exclude_items))} items, {digest}"
        return values


def allowed_items(catalog: Catalog, settings: ScoreSettings) -> Tensor | None:
    """Which items may be recommended, bool (I,), or None for all.

    A category matches its whole path or any prefix of it (`Toys` allows `Toys > Puzzles`).
    Raises `UsageError` for a category, an item or a store that the catalog does not hold.
    """
    if not (settings.categories or settings.exclude_items or settings.exclude_stores):
        return None
    _require_known("--exclude-items", settings.exclude_items, {i.item_id for i in catalog.items})
    _require_known("--exclude-stores", settings.exclude_stores, {i.store for i in catalog.items})
    for category in settings.categories:
        if not any(_within(item.category, category) for item in catalog.items):
            raise UsageError(f"--category {category!r} is not in catalog {catalog.version}")
    items, stores = set(settings.exclude_items), set(settings.exclude_stores)
    return torch.tensor(
        [
            item.item_id not in items
            and item.store not in stores
            and (
                not settings.categories
                or any(_within(item.category, category) for category in settings.categories)
            )
            for item in catalog.items
        ]
    )


def _require_known(option: str, given: Sequence[str], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise UsageError(
            f"{option}: {unknown[0]!r} is not in the catalog; write it as it stands there"
        )


def _within(path: str, category: str) -> bool:
    return path == category or path.startswith(f"{category} > ")
