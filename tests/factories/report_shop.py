"""A published date whose every text tries to break out of a page; and a training's journal."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from r2ec import schemas
from r2ec.storage import Warehouse

DATE, MODEL = "2024-06-03", "0123456789ab"
RUN_ID = f"{DATE}-aaaaaaaaaaaa"
NOON = datetime(2024, 6, 3, 12, tzinfo=UTC)
BREAKOUTS = (
    "</script><script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "\"><svg onload=document.title='broken'>",
    "<!--<script>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:document.title='broken'",
    "\u2028\u2029\u202e&amp;&lt;",
    "' OR 1=1 --",
)
LONG_TITLE = "Veranlux " + "Bird" * 40 + " Seed, " + "no break " * 20
TITLES = (*BREAKOUTS, "Red Lamp", "Blue Mug", "Oak Desk", LONG_TITLE, "קומקום אדום", "红色台灯", "")
REASONS = {
    "ann": "wants a red LAMP next to an oak desk",
    "bob": BREAKOUTS[0],
    "eve": "אוהבת קומקום אדום",
    'x"><b>&': "<b>" + "long word" * 200,
    "error": None,
}
LATER = {"ann": 8, "bob": 9}  # ann finds it in her list; bob's is not in his


def make_report_shop(root: Path, *, num_more_users: int = 0) -> Warehouse:
    """Write catalog, histories, sequences, a published run, metrics and quarantine."""
    warehouse = Warehouse(str(root))
    users = {**REASONS, **{f"more-{n:05d}": f"likes mug {n}" for n in range(num_more_users)}}
    lists = {
        user: [8, 10, *range(8), 11, 12] if user != "bob" else [0, 1, 2]
        for user in users
        if user != "error"
    }
    _write(warehouse, schemas.CATALOG, _catalog(), f"version={DATE}")
    _write(warehouse, schemas.HISTORIES, [_history(user) for user in users], f"date={DATE}")
    _write(warehouse, schemas.SEQUENCES, _sequences(), "split=test")
    _write(warehouse, schemas.RUNS, [_run(len(users), lists)], f"date={DATE}", name="run.parquet")
    at = (f"date={DATE}", f"run_id={RUN_ID}")
    ranked = [row for user, items in lists.items() for row in _ranked(user, items)]
    _write(warehouse, schemas.RECOMMENDATIONS, ranked, *at)
    _write(warehouse, schemas.REASONING, [_reason(*pair) for pair in users.items()], *at)
    for name, value in (
        ("popularity", 0.05),
        (f"{MODEL}-budget-0", 0.1),
        (f"{MODEL}-budget-8", 0.2),
    ):
        _write(warehouse, schemas.METRICS, _metrics(name, value), name=f"{name}-test.parquet")
    rejected = [
        {"source": f"<b>{text}", "line": text, "reason": "bad_time", "run_id": "r"}
        for text in BREAKOUTS
    ]
    _write(warehouse, schemas.QUARANTINE, rejected, "job=build_sequences", f"date={DATE}")
    return warehouse


def write_journal(folder: Path, *, steps: int = 30) -> Path:
    """The folder of a training with a line a step, the last one cut off by a kill."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"stage": "contrastive", "step": 0, "valid_ndcg@10": 0.01}]
    lines += [
        {"stage": "contrastive", "step": step, "item_loss": 5 - step / steps, "language_loss": 1.0}
        for step in range(1, steps + 1)
    ]
    lines += [
        {
            "stage": "recpo",
            "step": step,
            "reward_mean": 0.1 + step / 100,
            "reward_discrete_mean": 0.12 + step / 100,
            "reward_continuous_mean": 0.02,
            "reasoning_tokens": 12.5,
            "entropy": 1.2,
            "clip_fraction": 0.0,
            "zero_variance_share": None,
        }
        for step in range(1, steps + 1)
    ]
    lines.append({"stage": "recpo", "step": steps, "valid_ndcg@10": 0.15})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"stage": "recpo", "st')
    return folder


def _write(warehouse: Warehouse, table: schemas.Table, rows, *parts: str, name="part-0.parquet"):
    warehouse.write_parquet(
        pa.Table.from_pylist(rows, schema=table.schema), table.name, *parts, name
    )


def _catalog():
    return [
        {
            "item_index": index,
            "item_id": f"A{index}",
            "title": title,
            "store": BREAKOUTS[1] if index % 2 else None,
            "price": None if index % 3 else 9.5,
            "first_seen": NOON,
            "text_hash": "h",
        }
        for index, title in enumerate(TITLES)
    ]


def _history(user: str):
    return {
        "user_id": user,
        "history_item_index": list(range(8)),
        "history_rating": [None, *[4.5] * 7],
        "history_time": [NOON - timedelta(days=8 - place) for place in range(8)],
        "history_hash": f"hash of {user}",
    }


def _sequences():
    return [
        {
            "sequence_id": number,
            "user_id": user,
            "history_item_index": [0],
            "history_rating": [4.0],
            "history_time": [NOON],
            "target_item_index": item,
            "target_rating": 5.0,
            "target_time": NOON + timedelta(days=2),
        }
        for number, (user, item) in enumerate(LATER.items())
    ]


def _ranked(user: str, items: list[int]):
    return [
        {
            "user_id": user,
            "rank": rank,
            "item_id": f"A{item}",
            "item_index": item,
            "score": 5.0 - rank / 10,
        }
        for rank, item in enumerate(items, start=1)
    ]


def _reason(user: str, text: str | None):
    return {
        "user_id": user,
        "reasoning": text,
        "finish_reason": None if text is None else "marker",
        "prompt_tokens": None if text is None else 100,
        "reasoning_tokens": None if text is None else 7,
        "history_hash": f"hash of {user}",
        "status": "error" if text is None else "ok",
        "error": BREAKOUTS[0] if text is None else None,
    }


def _run(num_users: int, lists):
    return {
        "run_id": RUN_ID,
        "model": MODEL,
        "catalog_version": DATE,
        "num_shards": 1,
        "num_users": num_users,
        "num_errors": 1,
        "num_recommendations": sum(map(len, lists.values())),
        "prompt_tokens": 400,
        "reasoning_tokens": 28,
        "wall_seconds": 2.5,
        "device_seconds": 2.0,
        "price_per_hour": 3.0,
        "cost_per_1000_users": 0.33,
        "published_at": NOON,
        "num_carried": 0,
        "users_per_second": 2.0,
    }


def _metrics(run_id: str, value: float):
    return [
        {
            "run_id": run_id,
            "model": MODEL if run_id.startswith(MODEL) else run_id,
            "split": "test",
            "metric": metric,
            "value": value,
            "ci_low": value - 0.01,
            "ci_high": value + 0.01,
            "users": 100,
        }
        for metric in ("ndcg@10", "hit_rate@10")
    ]
