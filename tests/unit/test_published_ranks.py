"""Ranks of next purchases on published lists: by hand, and as the query of their means has it."""

import json

import pytest

from r2ec import schemas, sql_files
from r2ec.errors import NotReadyError, UsageError
from r2ec.infer.evaluate import NOT_LISTED, published_ranks
from r2ec.metrics import summarise
from r2ec.warehouse_views import open_views, run_query
from tests.factories.commands import cli
from tests.factories.query_warehouse import LAST, NOT_PUBLISHED, SECOND, make_query_warehouse


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    return make_query_warehouse(tmp_path_factory.mktemp("warehouse"))


def test_ranks_are_those_of_the_lists_and_what_is_not_listed_is_below_every_cut_off(warehouse):
    assert published_ranks(warehouse, SECOND).tolist() == [2, NOT_LISTED, 3]
    assert published_ranks(warehouse, SECOND, days=8).tolist() == [2, NOT_LISTED, 3, 1]


@pytest.mark.parametrize("k", [1, 2, 3, 1000])
def test_their_means_are_those_of_the_query(warehouse, k):
    query = sql_files.find_sql("hit_rate_and_ndcg_later")
    with open_views(warehouse) as views:
        (row,) = run_query(views, query, {"date": SECOND, "k": str(k)}).to_pylist()
    hit_rate, ndcg = summarise(published_ranks(warehouse, SECOND), ks=(k,))
    assert (hit_rate.users, hit_rate.value) == (row["num_users"], row["hit_rate"])
    assert ndcg.value == pytest.approx(row["ndcg"])


@pytest.mark.parametrize(
    ("date", "error", "words"),
    [
        (NOT_PUBLISHED, NotReadyError, "is not published"),
        (LAST, NotReadyError, "no user of the lists of"),
        ("tomorrow", UsageError, "is not a day"),
    ],
)
def test_dates_that_tell_nothing_are_refused(warehouse, date, error, words):
    with pytest.raises(error, match=words):
        published_ranks(warehouse, date)


def evaluate(warehouse, *options):
    return cli("evaluate", "--warehouse", warehouse.root, "--date", SECOND, *options)


def test_evaluate_of_a_date_tells_and_records_what_the_ranks_make(warehouse, capsys):
    assert evaluate(warehouse, "--k", 2, "--days", 8, "--format", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["run_id"], told["split"]) == (f"published-{SECOND}-within-8-days", "later")
    assert told["users"] == 4
    values = {row["metric"]: row["value"] for row in told["metrics"]}
    assert values["hit_rate@2"] == 0.5
    rows = warehouse.read_table(schemas.METRICS).to_pylist()
    assert {(row["model"], row["split"]) for row in rows} == {("0123456789ab", "later")}
    assert {row["metric"]: row["value"] for row in rows} == values


def test_cut_offs_beyond_the_lists_are_left_out_or_refused(warehouse, capsys):
    assert evaluate(warehouse, "--format", "json") == 2
    assert "have at most 3 items; give cut-offs up to 3" in capsys.readouterr().err
    assert evaluate(warehouse, "--k", 3, "--k", 4) == 2
    assert "--k 4: the lists of" in capsys.readouterr().err
    assert evaluate(warehouse, "--k", 3) == 0
    assert "hit_rate@3" in capsys.readouterr().out


def test_options_of_a_model_have_no_place_beside_a_date(warehouse, capsys):
    for options in (("--split", "valid"), ("--reasoning-budget", 3), ("--max-users", 2)):
        assert evaluate(warehouse, *options) == 2
        assert f"{options[0]} has no effect with --date" in capsys.readouterr().err
    assert evaluate(warehouse, "--baseline", "popularity") == 2
    assert "one of --model DIR, --baseline NAME and --date DAY" in capsys.readouterr().err
