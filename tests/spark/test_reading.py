import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2ec.etl.inputs import InteractionInput
from r2ec.etl.interactions import find_interactions, read_interactions
from r2ec.etl.rows import POSITION_BITS
from r2ec.etl.session import SETTINGS
from tests.factories.logs import HEADER, make_log, write_csv, write_jsonl, write_lines

pytestmark = pytest.mark.spark


def read(spark, *paths, **settings):
    """Rows of a log by place: user_id, item_id, rating, time, place, line, reason."""
    log = InteractionInput(paths=tuple(map(str, paths)), **settings)
    rows = read_interactions(spark, find_interactions(spark, log), log)
    return rows.orderBy("place").collect()


def events(rows):
    return [(row["user_id"], row["item_id"], row["rating"], row["time"]) for row in rows]


def as_events(log):
    return [(user, item, float(rating), int(time) * 1000) for user, item, rating, time in log]


def test_every_format_gives_the_same_events_in_the_same_order(spark, tmp_path):
    log = make_log(seed=1, events=60)
    objects = [dict(zip(HEADER, (u, i, float(r), int(t)), strict=True)) for u, i, r, t in log]
    times = [datetime.fromtimestamp(row["timestamp"] / 1000, UTC) for row in objects]
    table = pa.Table.from_pylist(objects)
    column = pa.array(times, pa.timestamp("us", tz="UTC"))
    pq.write_table(table, tmp_path / "numbers.parquet")
    pq.write_table(table.set_column(3, "timestamp", column), tmp_path / "times.parquet")
    iso = [(*row[:3], time.isoformat()) for row, time in zip(log, times, strict=True)]
    paths = {
        write_csv(tmp_path / "plain.csv", log): {},
        write_csv(tmp_path / "packed.csv.gz", log): {},
        write_lines(tmp_path / "tabs.tsv", ["\t".join(row) for row in [HEADER, *log]]): {},
        write_lines(tmp_path / "other.txt", [";".join(row) for row in [HEADER, *log]]): {
            "format": "csv",
            "delimiter": ";",
        },
        write_jsonl(tmp_path / "rows.jsonl", objects): {},
        write_jsonl(tmp_path / "packed.jsonl.gz", objects): {},
        write_csv(tmp_path / "iso.csv", iso): {"time_unit": "iso"},
        tmp_path / "numbers.parquet": {},
        tmp_path / "times.parquet": {},
    }
    for path, settings in paths.items():
        rows = read(spark, path, **settings)
        assert events(rows) == as_events(log), path
        assert {row["reason"] for row in rows} == {None}


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("s", "1500000000.25"),
        ("s", "1.50000000025e9"),
        ("ms", "1500000000250"),
        ("us", "1500000000250000"),
    ],
)
def test_times_are_microseconds_whatever_their_unit(spark, tmp_path, unit, text):
    path = write_csv(tmp_path / "log.csv", [("U", "B", "5", text)])
    assert read(spark, path, time_unit=unit)[0]["time"] == 1_500_000_000_250_000


ISO_TIMES = {
    "2024-01-31": 1706659200,
    "2024-01-31 10:00": 1706695200,
    "2024-01-31T10:00:00.5": 1706695200.5,
    "2024-01-31T10:00Z": 1706695200,
    "2024-01-31T10:00+01:00": 1706691600,
    "2024-01-31T10:00:00+0100": 1706691600,
    "1999-12-31T23:59:59Z": 946684799,
    "31.1.2024 10:00": 1706695200,
    "10:00": None,
    "2024": None,
    "2024-02-30": None,
}


def test_iso_times_and_those_of_a_format(spark, tmp_path):
    path = write_csv(tmp_path / "log.csv", [("U", "B", "5", text) for text in ISO_TIMES])
    rows = read(spark, path, time_unit="iso", time_format="d.M.yyyy H:mm")
    times = [None if row["time"] is None else row["time"] / 10**6 for row in rows]
    assert dict(zip(ISO_TIMES, times, strict=True)) == ISO_TIMES
    assert [row["reason"] for row in rows] == [None] * 8 + ["bad_time"] * 3


UNITS = {
    "ms": {
        "1600000000": "time_in_seconds",
        "1600000000.25": "time_in_seconds",
        "1600000000000000": "time_in_microseconds",
        "2020-09-13": "bad_time",
    },
    "s": {
        "1600000000000": "time_in_milliseconds",
        "1600000000000000": "time_in_microseconds",
        "788918400": None,
        "0": "time_out_of_range",
        "4102444801": "time_out_of_range",
        "4102444700": "time_in_future",
    },
    "us": {"1600000000000": "time_in_milliseconds", "1600000000": "time_in_seconds"},
    "iso": {"1600000000": "time_in_seconds", "9/13/2020 12:26": "bad_time"},
}


@pytest.mark.parametrize("unit", UNITS)
def test_times_in_another_unit_are_told_and_not_guessed(spark, tmp_path, unit):
    path = write_csv(tmp_path / "log.csv", [("U", "B", "5", text) for text in UNITS[unit]])
    rows = read(spark, path, time_unit=unit)
    found = dict(zip(UNITS[unit], [row["reason"] for row in rows], strict=True))
    assert found == UNITS[unit]


def test_a_typed_time_in_another_unit_is_told_too(spark, tmp_path):
    columns = {"user_id": ["U"], "parent_asin": ["B"], "timestamp": [1_600_000_000]}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    assert read(spark, tmp_path / "log.parquet")[0]["reason"] == "time_in_seconds"
    assert read(spark, tmp_path / "log.parquet", time_unit="s")[0]["reason"] is None


def test_an_event_may_not_be_later_than_the_latest_time_given(spark, tmp_path):
    path = write_csv(tmp_path / "log.csv", [("U", "B", "5", "1000"), ("U", "B", "5", "1001")])
    rows = read(spark, path, time_unit="s", max_time=1000 * 10**6)
    assert [row["reason"] for row in rows] == [None, "time_in_future"]


def test_ratings_out_of_range_and_nul_bytes_are_rejected(spark, tmp_path):
    log = [
        ("U", "B", "0.5", "1000"),
        ("U", "B", "0.4", "1000"),
        ("U", "B", "5.1", "1000"),
        ("U", "B", "", "1000"),
        ("U\0", "B", "5", "1000"),
        ("U", "\0B", "5", "1000"),
    ]
    rows = read(spark, write_csv(tmp_path / "log.csv", log), min_rating=0.5, max_rating=5.0)
    assert [row["reason"] for row in rows] == [
        None,
        "rating_out_of_range",
        "rating_out_of_range",
        None,
        "nul_byte",
        "nul_byte",
    ]
    objects = [dict(zip(HEADER, row, strict=True)) for row in log]
    rows = read(spark, write_jsonl(tmp_path / "log.jsonl", objects))
    assert [row["reason"] for row in rows] == [None] * 4 + ["nul_byte"] * 2


@pytest.fixture
def small_splits(spark):
    """Splits of 1,000 bytes: a file of this test is then read by many tasks."""
    names = ("spark.sql.files.maxPartitionBytes", "spark.sql.files.openCostInBytes")
    for name in names:
        spark.conf.set(name, "1000")
    yield
    for name in names:
        spark.conf.set(name, SETTINGS[name])


def test_places_follow_file_names_and_positions_however_the_files_are_cut(
    spark, small_splits, tmp_path
):
    log = make_log(seed=2, events=700)
    # The longest file last, one with a space and a pattern character in its name.
    cuts = {"a.csv": log[:60], "b [x] é%20.csv": log[60:200], "c.csv": log[200:]}
    for name, rows in cuts.items():
        write_csv(tmp_path / name, rows)
    rows = read(spark, tmp_path)
    assert events(rows) == as_events(log)
    numbers = [row["place"] >> POSITION_BITS for row in rows]
    assert numbers == [0] * 60 + [1] * 140 + [2] * 500
    assert len({row["place"] for row in rows}) == 700


def test_many_small_files_are_read_by_few_tasks_in_the_same_order(spark, tmp_path):
    log = make_log(seed=4, events=150)
    for number, row in enumerate(log):
        write_csv(tmp_path / "days" / f"{number:04d}.csv", [row])
    found = InteractionInput(paths=(str(tmp_path / "days"),))
    rows = read_interactions(spark, find_interactions(spark, found), found)
    assert rows.rdd.getNumPartitions() < 20
    assert events(rows.orderBy("place").collect()) == as_events(log)


def test_folders_patterns_and_repeated_paths_give_each_file_once(spark, tmp_path):
    log = make_log(seed=5, events=30)
    write_csv(tmp_path / "day=1" / "a.csv", log[:10])
    write_jsonl(
        tmp_path / "day=2" / "b.jsonl.gz",
        [dict(zip(HEADER, row, strict=True)) for row in log[10:]],
    )
    write_lines(tmp_path / "_temporary" / "x.csv", ["not,to,be,read"])
    write_lines(tmp_path / "day=1" / ".a.csv.crc", ["not to be read"])
    assert events(read(spark, tmp_path)) == as_events(log)
    twice = (tmp_path / "day=*", tmp_path / "day=1" / "a.csv")
    assert events(read(spark, *twice)) == as_events(log)


def test_each_csv_file_has_a_header_of_its_own(spark, tmp_path):
    write_lines(tmp_path / "a.csv", ["\ufeffuser_id,parent_asin,rating,timestamp", "U1,B1,4,1000"])
    write_lines(tmp_path / "b.csv", ["timestamp,more,parent_asin,user_id", "2000,x,B2,U2", ""])
    write_lines(tmp_path / "c.csv", ["user_id,parent_asin,rating,timestamp"])
    assert events(read(spark, tmp_path)) == [
        ("U1", "B1", 4.0, 10**6),
        ("U2", "B2", None, 2 * 10**6),
    ]


def test_quotes_and_separators_in_quotes_are_read_as_csv_has_them(spark, tmp_path):
    lines = [
        "user_id,parent_asin,rating,timestamp",
        '"U ""1"", x", B1 ,"4.5","1000"',
        "U2,B2,,2000",
    ]
    rows = read(spark, write_lines(tmp_path / "log.csv", lines))
    assert events(rows) == [('U "1", x', "B1", 4.5, 10**6), ("U2", "B2", None, 2 * 10**6)]


MULTI_LINE = """user_id,parent_asin,note,timestamp
U1,B1,"two
lines, ""quoted""

and a blank one",1000
U2,B2,,2000

,B3,"x
y",3000
U4,B4,4000
U5,B5,"it",soon
"""


def test_values_over_several_lines_are_read_on_request(spark, small_splits, tmp_path):
    """Records stay in order and in their files, however large the files are."""
    (tmp_path / "a.csv").write_text(MULTI_LINE)
    long = MULTI_LINE.splitlines(keepends=True)
    (tmp_path / "b.csv").write_text(long[0] + "".join(long[1:6]) * 300)
    rows = read(spark, tmp_path, multi_line=True)
    first = [row for row in rows if row["place"] >> POSITION_BITS == 0]
    assert [row["reason"] for row in first] == [
        None,
        None,
        "missing_user",
        "broken_row",
        "bad_time",
    ]
    assert events(first[:2]) == [("U1", "B1", None, 10**6), ("U2", "B2", None, 2 * 10**6)]
    assert [row["line"].replace('"', "") for row in first[2:]] == [
        ",B3,x\ny,3000",
        "U4,B4,4000",
        "U5,B5,it,soon",
    ]
    assert [row["user_id"] for row in rows[5:]] == ["U1", "U2"] * 300
    assert len({row["place"] for row in rows}) == 605
    assert {row["reason"] for row in read(spark, tmp_path / "a.csv")} > {None, "broken_row"}


DIRTY_CSV = {
    "U1,B1": "broken_row",
    "U1,B1,5,1000,more": "broken_row",
    'U1,"B1,5,1000': "broken_row",
    ",B1,5,1000": "missing_user",
    "  ,B1,5,1000": "missing_user",
    "U1,,5,1000": "missing_item",
    "U1,B1,5,": "missing_time",
    "U1,B1,5,yesterday": "bad_time",
    "U1,B1,5,99999999999999999999": "bad_time",
    "U1,B1,5,0": "time_out_of_range",
    "U1,B1,5,-5": "time_out_of_range",
    "U1,B1,5,99999999999999": "time_out_of_range",
    "U1,B1,good,1000": "bad_rating",
    "U1,B1,NaN,1000": "bad_rating",
    "U1,B1,Infinity,1000": "bad_rating",
    "user_id,parent_asin,rating,timestamp": "bad_time",
}
DIRTY_JSON = {
    '{"user_id": "U1", "parent_asin": "B1"': "broken_row",
    '{"user_id":"U1","parent_asin":"B1","timestamp":1000}{"user_id":"U2"}': "broken_row",
    '{"user_id":"U1","parent_asin":"B1","timestamp":1000} and more': "broken_row",
    '[{"user_id":"U1","parent_asin":"B1","timestamp":1000}]': "broken_row",
    '{"user_id":"U1"},{"user_id":"U2"}': "broken_row",
    '"U1"': "broken_row",
    "null": "broken_row",
    "U1,B1,5,1000": "broken_row",
    '{"user_id":null,"parent_asin":"B1","timestamp":1000}': "missing_user",
    '{"user_id":"U1","timestamp":1000}': "missing_item",
    '{"user_id":"U1","parent_asin":"B1"}': "missing_time",
    '{"user_id":"U1","parent_asin":"B1","timestamp":[1]}': "bad_time",
    '{"user_id":"U1","parent_asin":"B1","timestamp":1000,"rating":"x"}': "bad_rating",
}


@pytest.mark.parametrize(("name", "dirty"), [("log.csv", DIRTY_CSV), ("log.jsonl", DIRTY_JSON)])
def test_a_broken_row_keeps_its_text_and_says_what_is_wrong(spark, tmp_path, name, dirty):
    good = {
        "log.csv": ["user_id,parent_asin,rating,timestamp", "U9,B9,3,9000"],
        "log.jsonl": ['{"user_id":"U9","parent_asin":"B9","rating":3,"timestamp":9000}'],
    }[name]
    rows = read(spark, write_lines(tmp_path / name, [*good, *dirty]))
    assert events(rows[:1]) == [("U9", "B9", 3.0, 9 * 10**6)]
    assert {row["line"]: row["reason"] for row in rows[1:]} == dirty
    assert len(rows) == 1 + len(dirty)


def test_a_row_in_another_encoding_is_rejected_and_still_readable(spark, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(",".join(HEADER).encode() + b"\nU\xe91,B1,5,1000\nU2,B2,5,2000\n")
    broken, good = read(spark, path)
    assert (broken["reason"], good["reason"]) == ("bad_encoding", None)
    assert broken["line"] == "U\ufffd1,B1,5,1000"


def test_a_rejected_parquet_row_is_kept_as_json(spark, tmp_path):
    rows = [
        {"user_id": "U1", "parent_asin": "B1", "rating": 5.0, "timestamp": None},
        {"user_id": "U1", "parent_asin": "B1", "rating": 5.0, "timestamp": 1000},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    broken, good = read(spark, tmp_path / "log.parquet")
    assert (broken["reason"], good["reason"]) == ("missing_time", None)
    assert json.loads(broken["line"]) == {"user_id": "U1", "parent_asin": "B1", "rating": 5.0}


def test_columns_with_types_are_used_as_they_are(spark, tmp_path):
    """Whole numbers as ids also where a missing one made the column a float; any kind of time."""
    moment = 1_500_000_000_123_456
    times = {
        "seconds": pa.array([moment // 10**6], pa.int64()),
        "micros": pa.array([moment], pa.timestamp("us", tz="UTC")),
        "zoneless": pa.array([moment], pa.timestamp("us")),
        "nanos": pa.array([moment * 1000 + 999], pa.timestamp("ns")),
        "days": pa.array([moment // 86_400_000_000], pa.date32()),
        "floats": pa.array([moment / 1e6], pa.float64()),
        "texts": pa.array([str(moment // 10**6)]),
    }
    whole, day = moment // 10**6 * 10**6, moment // 86_400_000_000 * 86_400_000_000
    expected = dict.fromkeys(times, whole) | dict.fromkeys(("micros", "zoneless", "nanos"), moment)
    expected |= {"days": day, "floats": moment}
    for name, time in times.items():
        table = pa.table(
            {
                "customer id": pa.array([17.0], pa.float64()),
                "parent_asin": pa.array([42], pa.int32()),
                "rating": pa.array([4.5], pa.float32()),
                "timestamp": time,
            }
        )
        pq.write_table(table, tmp_path / f"{name}.parquet")
        row = read(spark, tmp_path / f"{name}.parquet", user_column="customer id", time_unit="s")[0]
        assert events([row]) == [("17", "42", 4.5, expected[name])], name
        assert row["reason"] is None


def test_files_whose_columns_have_other_types_are_read_together(spark, tmp_path):
    for number, kind in enumerate((pa.int64(), pa.string(), pa.float64())):
        columns = {"user_id": [number], "parent_asin": [7], "timestamp": [1000]}
        table = pa.table({name: pa.array(v).cast(kind) for name, v in columns.items()})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    rows = events(read(spark, tmp_path))
    assert rows[:2] == [("0", "7", None, 10**6), ("1", "7", None, 10**6)]
    assert rows[2] == ("2", "7", None, 10**6)


def test_a_missing_value_of_a_typed_column_is_missing(spark, tmp_path):
    nothing = float("nan")
    columns = {
        "user_id": [nothing, 1.0, 1.0, 1.0],
        "parent_asin": ["B", None, "B", "B"],
        "rating": [5.0, 5.0, 5.0, nothing],
        "timestamp": [1000.0, 1000.0, nothing, 1000.0],
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    rows = read(spark, tmp_path / "log.parquet")
    reasons = [row["reason"] for row in rows]
    assert reasons == ["missing_user", "missing_item", "missing_time", None]
    assert rows[3]["rating"] is None


def test_numbers_do_not_become_texts_on_the_way(spark, tmp_path):
    """Reading ten million typed rows through texts costs more than all the rest of the reading."""
    columns = {"user_id": ["U"], "parent_asin": ["B"], "rating": [5.0], "timestamp": [1000]}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    log = InteractionInput(paths=(str(tmp_path / "log.parquet"),))
    rows = read_interactions(spark, find_interactions(spark, log), log)
    plan = rows.select("user_id", "rating", "time", "reason")._jdf.queryExecution().optimizedPlan()
    text = str(plan.toString())
    assert "as string" not in text
    assert "to_json" not in text


def test_the_halves_of_a_record_over_two_lines_are_no_rows_of_their_own(spark, tmp_path):
    lines = ["user_id,parent_asin,rating,timestamp", "u,A,5,1500000000000"]
    lines += ['"v', 'w",A,5,1500000000000', 'x,A,5,"1500000000000', '"', 'y,19" B,5,1500000000000']
    rows = read(spark, write_lines(tmp_path / "log.csv", lines))
    reasons = {row["line"]: row["reason"] for row in rows}
    assert [line for line, reason in reasons.items() if reason is None] == [lines[1], lines[-1]]
    assert {reasons[line] for line in lines[2:6]} == {"broken_row"}
