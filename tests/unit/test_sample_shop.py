import csv
import gzip
import json
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from r2ec.cli.main import run
from r2ec.errors import UsageError
from r2ec.sample_shop.files import METADATA_FILE, RATINGS_FILE, README_FILE, write_sample_shop
from r2ec.sample_shop.goods import KINDS
from r2ec.sample_shop.items import brand_name, item_id

EVENTS = 20_000


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    return folder, write_sample_shop(EVENTS, 1, folder)


def read_log(folder):
    with gzip.open(folder / RATINGS_FILE, "rt", encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines))


def read_metadata(folder):
    """The items whose record can be parsed, by id, and how many lines cannot."""
    items, broken = {}, 0
    with gzip.open(folder / METADATA_FILE, "rt", encoding="utf-8") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                broken += 1
            else:
                items[record["parent_asin"]] = record
    return items, broken


def is_usable(row):
    return (
        len(row) == 4
        and row[0] != ""
        and row[1] != ""
        and row[2].replace(".", "").isdigit()
        and row[3].isdigit()
    )


def test_layout_is_that_of_amazon_reviews_2023(shop):
    folder, _ = shop
    assert read_log(folder)[0] == ["user_id", "parent_asin", "rating", "timestamp"]
    items, _ = read_metadata(folder)
    assert set(next(iter(items.values()))) == {
        "main_category", "title", "average_rating", "rating_number", "features", "description",
        "price", "store", "categories", "details", "parent_asin",
    }  # fmt: skip
    rows = [row for row in read_log(folder)[1:] if is_usable(row)]
    assert all(len(row[3]) == 13 for row in rows)
    assert {row[2] for row in rows} <= {"1.0", "2.0", "3.0", "4.0", "5.0"}


def test_counts_are_those_asked_for(shop):
    folder, counts = shop
    rows = [tuple(row) for row in read_log(folder)[1:] if is_usable(row)]
    assert len(set(rows)) == EVENTS
    assert len({row[0] for row in rows}) == counts["users"] == 2_500
    assert 800 <= counts["items"] <= 1_000


def test_same_seed_gives_same_bytes_and_another_seed_others(shop, tmp_path):
    folder, _ = shop
    write_sample_shop(EVENTS, 1, tmp_path / "again")
    write_sample_shop(EVENTS, 2, tmp_path / "other")
    for name in (RATINGS_FILE, METADATA_FILE, README_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_the_compressed_files_carry_no_time(shop):
    folder, _ = shop
    for name in (RATINGS_FILE, METADATA_FILE):
        assert (folder / name).read_bytes()[4:8] == bytes(4)  # MTIME of RFC 1952


def test_dirt_has_the_stated_shares_and_is_counted(shop):
    folder, counts = shop
    log = read_log(folder)[1:]
    items, broken_records = read_metadata(folder)
    usable = [tuple(row) for row in log if is_usable(row)]
    assert len(log) - len(usable) == counts["broken lines"]
    assert len(usable) - len(set(usable)) == counts["repeated lines"]
    unknown = {row[1] for row in usable} - {item_id(i) for i in range(counts["items"])}
    unknown_events = sum(row[1] in unknown for row in set(usable))
    assert unknown_events == counts["lines with an unknown item"]
    assert counts["broken lines"] / EVENTS == pytest.approx(0.005, rel=0.3)
    assert counts["repeated lines"] / EVENTS == pytest.approx(0.01, rel=0.3)
    assert counts["lines with an unknown item"] / EVENTS == pytest.approx(0.005, rel=0.3)
    assert broken_records == counts.get("metadata: broken lines", 0)
    assert sum(record["price"] is None for record in items.values()) == counts["metadata: no price"]
    assert "&quot;" in " ".join(record["title"] for record in items.values())
    assert "<p>" in " ".join(" ".join(record["description"]) for record in items.values())


def test_readme_says_that_it_is_synthetic_and_how_dirty(shop):
    folder, counts = shop
    readme = (folder / README_FILE).read_text(encoding="utf-8")
    assert readme.startswith("SYNTHETIC DATA")
    for name in ("repeated lines", "broken lines", "lines with an unknown item"):
        assert f"{counts[name]:,}  {name}" in readme


def test_titles_name_brand_kind_and_theme(shop):
    folder, _ = shop
    items, _ = read_metadata(folder)
    whole = [r for r in items.values() if r["store"] and "&" not in r["title"]]
    kind_names = [kind.name.title() for kind in KINDS]
    for record in whole:
        assert record["store"] in record["title"]
        assert record["details"]["Theme"] in record["title"]
        assert any(name in record["title"] for name in kind_names), record["title"]


def test_a_reader_of_the_texts_beats_popularity_clearly(shop):
    """Transitions between kinds, with brand and theme, learnt from the files' first 80 % alone."""
    folder, _ = shop
    items, _ = read_metadata(folder)
    events = sorted(
        {(int(r[3]), r[0], r[1]) for r in read_log(folder)[1:] if is_usable(r) and r[1] in items}
    )
    cut = events[int(len(events) * 0.8)][0]
    histories = defaultdict(list)
    popularity, follows, tests = Counter(), Counter(), []
    for time, user, item in events:
        history = histories[user]
        if time < cut:
            popularity[item] += 1
            if history:
                follows[(kind_of(items[history[-1]]), kind_of(items[item]))] += 1
        elif history and item not in history:
            tests.append((tuple(history), item))
        history.append(item)
    favourites = [item for item, _ in popularity.most_common()]
    sample = tests[:: max(1, len(tests) // 400)]
    popular_hits = reader_hits = 0
    for history, target in sample:
        seen = set(history)
        popular_hits += target in [item for item in favourites if item not in seen][:10]
        reader_hits += target in read_and_rank(items, popularity, follows, history)[:10]
    popular_share, reader_share = popular_hits / len(sample), reader_hits / len(sample)
    print(f"H@10 popularity {popular_share:.3f}, reader {reader_share:.3f}, of {len(sample)}")
    assert popular_share < 0.15
    assert reader_share > 2.5 * popular_share
    assert reader_share < 0.75, "the shop has no noise left"


def kind_of(record):
    return record["categories"][-1] if record["categories"] else None


def read_and_rank(items, popularity, follows, history):
    """Items by what their texts have in common with the last three of the history."""
    recent = [items[item] for item in history[-3:]]
    themes = Counter(items[item]["details"]["Theme"] for item in history)

    def score(item):
        record = items[item]
        value = 0.01 * popularity[item]
        for weight, last in zip((1.0, 0.6, 0.4), reversed(recent), strict=False):
            moves = follows[(kind_of(last), kind_of(record))]
            same_brand = record["store"] is not None and record["store"] == last["store"]
            value += weight * moves * (1.0 if same_brand else 0.1)
        same_department = any(r["main_category"] == record["main_category"] for r in recent)
        return value + 3.0 * themes[record["details"]["Theme"]] * same_department

    return sorted(set(items) - set(history), key=lambda item: (-score(item), item))


def test_memory_stays_flat_when_the_log_grows(tmp_path):
    """Ten times the events take less than a third of the memory that their lines would."""
    peaks = [peak_mebibytes(events, tmp_path / str(events)) for events in (100_000, 1_000_000)]
    lines_mebibytes = 900_000 * (49 + 45) / 2**20  # a Python string is its bytes and 49 more
    print(f"peak {peaks[0]:.0f} MiB at 100,000 events, {peaks[1]:.0f} MiB at 1,000,000")
    assert peaks[1] - peaks[0] < lines_mebibytes / 3, peaks


def peak_mebibytes(events, folder):
    code = (
        "import resource, sys; from pathlib import Path; "
        "from r2ec.sample_shop.files import write_sample_shop; "
        f"write_sample_shop({events}, 1, Path(sys.argv[1])); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_ids_and_brand_names_are_unique():
    assert len({brand_name(brand) for brand in range(4_800)}) == 4_800
    assert len({item_id(index) for index in range(100_000)}) == 100_000


def test_a_shop_too_small_or_on_a_file_is_refused(tmp_path, capsys):
    with pytest.raises(UsageError, match="at least 100"):
        write_sample_shop(10, 1, tmp_path / "x")
    (tmp_path / "file").write_text("mine")
    assert run(["sample-data", "--events", "1000", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("events", [100, 999, 70_001])
def test_odd_sizes_have_exactly_the_events_asked_for(tmp_path, events):
    write_sample_shop(events, 3, tmp_path)
    rows = {tuple(row) for row in read_log(tmp_path)[1:] if is_usable(row)}
    assert len(rows) == events
