"""Rows of the table `metrics`: what a run reached on a split."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from r2ec import schemas
from r2ec.metrics import MetricValue, summarise
from r2ec.storage import Warehouse


def record_metrics(
    warehouse: Warehouse,
    *,
    run_id: str,
    model: str,
    split: str,
    ranks: NDArray[np.int64],
    users: Sequence[str] | None = None,
    ks: Sequence[int],
    seed: int = 0,
) -> list[MetricValue]:
    """Summarise 1-based `ranks` [B] and put them into `metrics`; returns what was put there.

    `users` [B] says whose sequence each is of; without it each is of a user of its own. Rows of the
    same `run_id` and `split` are replaced. Raises `ValueError` as `metrics.summarise`.
    """
    values = summarise(ranks, users=users, ks=ks, seed=seed)
    rows = pa.Table.from_pylist(
        [
            {
                "run_id": run_id,
                "model": model,
                "split": split,
                "metric": value.metric,
                "value": value.value,
                "ci_low": value.ci_low,
                "ci_high": value.ci_high,
                "users": value.users,
            }
            for value in values
        ],
        schema=schemas.METRICS.schema,
    )
    warehouse.write_parquet(rows, "metrics", f"{run_id}-{split}.parquet")
    return values
