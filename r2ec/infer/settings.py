"""What decides the rows of a scoring run beside model, catalog and histories."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2ec.catalog import Catalog, is_text
from r2ec.errors import UsageError
from r2ec.logs import get_logger
from r2ec.model.choice import SamplingSettings

MAX_TOP_K = 1000
_LOG = get_logger(__name__)


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

    A category matches its whole path or any prefix of it (`Toys` allows `Toys > Puzzles`). Of the
    items to leave out some may be unknown, for one list serves many catalogs: a warning tells them.
    Raises `UsageError` for a category or a store that the catalog does not hold, and where it holds
    none of the items.
    """
    if not (settings.categories or settings.exclude_items or settings.exclude_stores):
        return None
    stores = pa.array([name for name in settings.exclude_stores if is_text(name)], pa.string())
    found, masks = set[str](), list[NDArray[np.bool_]]()
    for columns in catalog.items.iter_columns("category", "store"):
        category, store = (pc.fill_null(column, "") for column in columns)
        is_barred = pc.is_in(store, stores)
        found.update(store.filter(is_barred).unique().to_pylist())
        is_allowed = ~is_barred.to_numpy(zero_copy_only=False)
        if settings.categories:
            within = [_within(category, wanted) for wanted in settings.categories]
            found.update(
                name for name, mask in zip(settings.categories, within, strict=True) if mask.any()
            )
            is_allowed &= np.logical_or.reduce(within)
        masks.append(is_allowed)
    for option, names in (
        ("--category", settings.categories),
        ("--exclude-stores", settings.exclude_stores),
    ):
        _require_known(option, names, found, catalog)
    allowed_I = np.concatenate(masks)
    if settings.exclude_items:
        allowed_I[_indices_of(settings.exclude_items, catalog)] = False
    return torch.from_numpy(allowed_I)


def _indices_of(item_ids: Sequence[str], catalog: Catalog) -> list[int]:
    """Indices of the items to leave out that the catalog holds."""
    index = catalog.items.indices_of(item_ids)
    unknown = sorted(set(item_ids) - index.keys())
    if not index:
        raise UsageError(
            f"--exclude-items: catalog {catalog.version} holds none of the {len(unknown):,} items"
            f" (such as {unknown[0]!r}); give the shop's ids, one a line"
        )
    if unknown:
        _LOG.warning(
            f"--exclude-items: {len(unknown):,} of {len(set(item_ids)):,} items are not in catalog"
            f" {catalog.version} (such as {unknown[0]!r}); they are in no list anyway"
        )
    return list(index.values())


def _require_known(option: str, given: Sequence[str], known: set[str], catalog: Catalog) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise UsageError(
            f"{option}: {unknown[0]!r} is not in catalog {catalog.version}; write it as it stands"
            " there"
        )


def _within(paths: pa.Array, category: str) -> NDArray[np.bool_]:
    """Which paths are a category's own or lead into it."""
    if not is_text(category):
        return np.zeros(len(paths), dtype=bool)
    inside = pc.or_(pc.equal(paths, category), pc.starts_with(paths, f"{category} > "))
    is_inside: NDArray[np.bool_] = inside.to_numpy(zero_copy_only=False)
    return is_inside
