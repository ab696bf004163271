"""The tables of the warehouse: columns, partitions and grain, defined once.

Every writer casts to these schemas and `sql/schema/` is held to them by a test. Times are UTC
timestamps in microseconds; `date` and `version` partitions are ISO days. A partition column lives
in the path (Hive style), not in the files.
"""

from dataclasses import dataclass

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")

HISTORY_FIELDS = (
    pa.field("history_item_index", pa.list_(pa.int64())),
    pa.field("history_rating", pa.list_(pa.float32())),
    pa.field("history_time", pa.list_(TIMESTAMP)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table: `schema` holds the columns in the files, `partition_by` those in the path.

    Files of earlier releases may lack the columns `may_lack`, which are null then.
    """

    name: str
    grain: str
    schema: pa.Schema
    partition_by: tuple[str, ...]
    may_lack: tuple[str, ...] = ()


CATALOG = Table(
    name="catalog",
    grain="one row per item of a catalog version",
    partition_by=("version",),
    schema=pa.schema(
        [
            pa.field("item_index", pa.int64(), nullable=False),
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("title", pa.string()),
            pa.field("description", pa.string()),
            pa.field("category", pa.string()),
            pa.field("store", pa.string()),
            pa.field("price", pa.float64()),
            pa.field("first_seen", TIMESTAMP),
            pa.field("text_hash", pa.string(), nullable=False),
        ]
    ),
)

SEQUENCES = Table(
    name="sequences",
    grain="one row per (user, target)",
    partition_by=("split",),
    schema=pa.schema(
        [
            pa.field("sequence_id", pa.int64(), nullable=False),
            pa.field("user_id", pa.string(), nullable=False),
            *HISTORY_FIELDS,
            pa.field("target_item_index", pa.int64(), nullable=False),
            pa.field("target_rating", pa.float32()),
            pa.field("target_time", TIMESTAMP, nullable=False),
        ]
    ),
)

HISTORIES = Table(
    name="histories",
    grain="one row per user with an event before the end of the date",
    partition_by=("date",),
    schema=pa.schema(
        [
            pa.field("user_id", pa.string(), nullable=False),
            *HISTORY_FIELDS,
            pa.field("history_hash", pa.string(), nullable=False),
        ]
    ),
)

QUARANTINE = Table(
    name="quarantine",
    grain="one row per rejected input row",
    partition_by=("job", "date"),
    schema=pa.schema(
        [
            pa.field("source", pa.string(), nullable=False),
            pa.field("line", pa.string()),
            pa.field("reason", pa.string(), nullable=False),
            pa.field("run_id", pa.string(), nullable=False),
        ]
    ),
)

ITEM_EMBEDDINGS = Table(
    name="item_embeddings",
    grain="one row per item, for one model",
    partition_by=("model",),
    schema=pa.schema(
        [
            pa.field("item_index", pa.int64(), nullable=False),
            pa.field("text_hash", pa.string(), nullable=False),
            # The list's fixed size is the model's hidden size: `item_embeddings_schema` sets it.
            pa.field("embedding", pa.list_(pa.float32()), nullable=False),
        ]
    ),
)

RECOMMENDATIONS = Table(
    name="recommendations",
    grain="one row per (user, rank) of a published date",
    partition_by=("date", "run_id"),
    schema=pa.schema(
        [
            pa.field("user_id", pa.string(), nullable=False),
            pa.field("rank", pa.int32(), nullable=False),
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("item_index", pa.int64(), nullable=False),
            pa.field("score", pa.float32(), nullable=False),
        ]
    ),
)

REASONING = Table(
    name="reasoning",
    grain="one row per user of a published date",
    partition_by=("date", "run_id"),
    schema=pa.schema(
        [
            pa.field("user_id", pa.string(), nullable=False),
            pa.field("reasoning", pa.string()),
            pa.field("finish_reason", pa.string()),
            pa.field("prompt_tokens", pa.int32()),
            pa.field("reasoning_tokens", pa.int32()),
            pa.field("history_hash", pa.string(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", pa.string()),
        ]
    ),
)

RUNS = Table(
    name="runs",
    grain="one row per published run; it is the pointer that says which run of a date is visible",
    partition_by=("date",),
    schema=pa.schema(
        [
            pa.field("run_id", pa.string(), nullable=False),
            pa.field("model", pa.string(), nullable=False),
            pa.field("catalog_version", pa.string(), nullable=False),
            pa.field("num_shards", pa.int32(), nullable=False),
            pa.field("num_users", pa.int64(), nullable=False),
            pa.field("num_errors", pa.int64(), nullable=False),
            pa.field("num_recommendations", pa.int64(), nullable=False),
            pa.field("prompt_tokens", pa.int64(), nullable=False),
            pa.field("reasoning_tokens", pa.int64(), nullable=False),
            pa.field("wall_seconds", pa.float64(), nullable=False),
            pa.field("device_seconds", pa.float64(), nullable=False),
            pa.field("price_per_hour", pa.float64()),
            pa.field("cost_per_1000_users", pa.float64()),
            pa.field("published_at", TIMESTAMP, nullable=False),
            pa.field("num_carried", pa.int64()),
            pa.field("users_per_second", pa.float64()),
            pa.field("catalog_fingerprint", pa.string()),
            pa.field("settings", pa.string()),
        ]
    ),
    may_lack=("num_carried", "users_per_second", "catalog_fingerprint", "settings"),
)

METRICS = Table(
    name="metrics",
    grain="one row per (run, split, metric)",
    partition_by=(),
    schema=pa.schema(
        [
            pa.field("run_id", pa.string(), nullable=False),
            pa.field("model", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("metric", pa.string(), nullable=False),
            pa.field("value", pa.float64(), nullable=False),
            pa.field("ci_low", pa.float64()),
            pa.field("ci_high", pa.float64()),
            pa.field("users", pa.int64(), nullable=False),
        ]
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        CATALOG,
        SEQUENCES,
        HISTORIES,
        QUARANTINE,
        ITEM_EMBEDDINGS,
        RECOMMENDATIONS,
        REASONING,
        RUNS,
        METRICS,
    )
}

SPLITS = ("train", "valid", "test")
FINISH_REASONS = ("marker", "eos", "length")
STATUSES = ("ok", "carried", "error")


def item_embeddings_schema(hidden_size: int) -> pa.Schema:
    """Schema of `item_embeddings` for a model of this hidden size (fixed-size float32 lists)."""
    embedding = pa.field("embedding", pa.list_(pa.float32(), hidden_size), nullable=False)
    return pa.schema([*list(ITEM_EMBEDDINGS.schema)[:-1], embedding])
