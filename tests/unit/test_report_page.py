"""The report as a file: its figures are those of the tables, its texts are texts."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from r2ec.report.examples import ExampleSettings
from r2ec.report.figures import load_figures
from r2ec.report.page import build_page
from r2ec.report.training import find_training, load_training
from r2ec.warehouse_views import open_views
from tests.factories import query_warehouse
from tests.factories.commands import cli
from tests.factories.report_shop import (
    BREAKOUTS,
    DATE,
    MODEL,
    TITLES,
    make_report_shop,
    write_journal,
)


class Page(HTMLParser):
    """What a browser would make of the page: its tags with attributes, its texts, its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._in: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._in[-1] if self._in else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def examples(self) -> dict[str, dict[str, object]]:
        return {user["user"]: user for user in json.loads(self.scripts[0])}


def report(warehouse: Path, output: Path, *options: object, date: str = DATE) -> int:
    at = ("--warehouse", warehouse, "--date", date, "--output", output)
    return cli("report", *at, *options)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    make_report_shop(folder / "w")
    write_journal(folder / "model.run")
    (folder / "model").mkdir()
    (folder / "model" / "r2ec.json").write_text(json.dumps({"fingerprint": MODEL}))
    return folder


@pytest.fixture(scope="module")
def page(shop: Path) -> Page:
    file = shop / "out" / "report.html"
    assert report(shop / "w", file, "--model", shop / "model") == 0
    return Page(file.read_text("utf-8"))


def test_no_text_of_a_table_becomes_a_tag_or_a_script(page: Page) -> None:
    assert len(page.scripts) == 2
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "object", "form")]
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("href", "src"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), value
    assert not set("<>&\u2028\u2029") & set(page.scripts[0])


def test_nothing_is_fetched_from_anywhere(page: Page, shop: Path) -> None:
    text = (shop / "out" / "report.html").read_text("utf-8")
    assert not re.search(r"https?://|url\(|@import", text)
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and "content" in a and "http-equiv" in a
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_users_are_whole(page: Page) -> None:
    ann, bob, failed = (page.examples[user] for user in ("ann", "bob", "error"))
    assert ann["reasoning"] == [
        ["wants a ", []],
        ["red LAMP", [1]],
        [" next to an ", []],
        ["oak desk", [2]],
    ]
    assert [row["title"] for row in ann["list"]][:2] == ["Red Lamp", "Oak Desk"]
    assert [row["bought"] for row in ann["list"]] == [True] + [False] * 9
    assert ann["later"] == [{"time": "2024-06-05 12:00", "title": "Red Lamp", "rank": 1}]
    assert bob["later"] == [{"time": "2024-06-05 12:00", "title": "Blue Mug", "rank": None}]
    assert "".join(piece for piece, _ in bob["reasoning"]) == BREAKOUTS[0]
    assert failed["error"] == BREAKOUTS[0]
    assert failed["list"] == []
    assert [row["title"] for row in ann["history"]] == list(BREAKOUTS)
    assert ann["history"][0]["age"] == "8 days before"


def test_the_figures_are_those_of_the_tables(page: Page) -> None:
    text = page.text
    assert "Recommendations of 2024-06-03" in text
    for words in (
        "Users with a list 4",
        "Failed users 1 20.0 %",
        "Cost of 1,000 users 0.33 at 3 an hour",
        "Of the 2 users with a list who bought something within 30 days",
        "1 found their next purchase",
        "bad_time 8",
        "popularity 0.0500 0.0400 to 0.0600",
        f"{MODEL}-budget-8 this model 0.2000",
    ):
        assert words in text, words


def test_training_and_budget_are_drawn(page: Page) -> None:
    names = [
        attributes["aria-label"] or ""
        for tag, attributes in page.tags
        if tag == "svg" and "aria-label" in attributes
    ]
    titles = {name.split(". ")[0] for name in names}
    assert {
        "N@10 on valid, contrastive stage",
        "N@10 on valid, RecPO",
        "Reward, RecPO",
        "Length of the reasoning, RecPO",
        "Entropy, RecPO",
        "Clipped tokens, RecPO",
        "N@10",
    } <= titles
    assert "Groups of equal rewards, RecPO" not in titles  # told as null at every step
    (budget,) = (name for name in names if name.startswith("N@10. "))
    assert budget == "N@10. test: 0.1000 at 0, 0.2000 at 8, highest 0.2000 at 8"


@pytest.mark.parametrize("date", query_warehouse.LISTS)
def test_every_published_date_makes_a_page(tmp_path: Path, date: str) -> None:
    """Dates with everything, with a day before, and without a single list."""
    query_warehouse.make_query_warehouse(tmp_path / "w")
    file = tmp_path / "report.html"
    assert report(tmp_path / "w", file, date=date) == 0
    page = Page(file.read_text("utf-8"))
    reasons = query_warehouse.REASONS[date]
    assert set(page.examples) == set(reasons)
    assert "The table metrics is empty" in page.text
    assert "Where this model was trained is not known here" in page.text
    assert ("Rising since" in page.text) == (date == query_warehouse.SECOND)


def test_a_page_stays_below_two_megabytes(tmp_path: Path) -> None:
    make_report_shop(tmp_path / "w", num_more_users=3000)
    file = tmp_path / "report.html"
    assert report(tmp_path / "w", file, "--examples", 3000, "--user", "ann") == 0
    assert 1_000_000 < file.stat().st_size < 2_000_000
    users = list(Page(file.read_text("utf-8")).examples)
    assert users[0] == "ann"
    assert 200 < len(users) < 3000


def test_the_same_tables_make_the_same_page(shop: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("a.html", "b.html"):
        assert report(shop / "w", tmp_path / name, "--examples", 2) == 0
        pages.append(re.sub(r"made [\d: -]+ UTC", "", (tmp_path / name).read_text("utf-8")))
    assert pages[0] == pages[1]
    assert len(Page(pages[0]).examples) == 2


def test_by_default_the_page_lies_beside_the_person(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("report", "--warehouse", shop / "w", "--date", DATE) == 0
    assert [file.name for file in tmp_path.iterdir()] == [f"report-{DATE}.html"]


def test_what_is_not_there_is_named(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "r2ec.json").write_text('{"fingerprint": "ffff"}')
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "metrics.jsonl").write_text("no JSON\n")
    for code, message, options in (
        (3, "--user 'nobody' has no reasoning on 2024-06-03", ("--user", "nobody")),
        (2, f"is model ffff, but the date was scored with model {MODEL}", ("--model", other)),
        (3, "r2ec.json is not there: --model names", ("--model", tmp_path / "none")),
        (3, "metrics.jsonl is not there: --training names", ("--training", other)),
        (3, "metrics.jsonl, line 1 is no step of a training", ("--training", broken)),
    ):
        assert report(shop / "w", tmp_path / "r.html", *options) == code
        assert message in capsys.readouterr().err
    assert report(shop / "w", tmp_path / "r.html", date="2024-06-04") == 3
    assert "2024-06-04 is not published" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_a_model_without_its_training_makes_a_page_without_curves(
    shop: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "model"
    alone.mkdir()
    (alone / "r2ec.json").write_text(json.dumps({"fingerprint": MODEL}))
    assert find_training(str(alone), None, MODEL) is None
    training = find_training(str(alone), str(shop / "model.run"), MODEL)
    assert training is not None
    assert training.curves["recpo", "valid_ndcg@10"] == [(30.0, 0.15)]
    assert load_training(shop / "model.run", {}).curves == training.curves


def test_named_users_come_first_and_once(shop: Path) -> None:
    from r2ec.storage import Warehouse

    settings = ExampleSettings(date=DATE, days=7, count=10, top_k=2, named=["eve", "ann", "eve"])
    examples = Page(build_page(Warehouse(str(shop / "w")), settings, None)).examples
    assert list(examples)[:2] == ["eve", "ann"]
    assert len(examples) == 5
    assert all(len(user["list"]) <= 2 for user in examples.values())


def test_rejected_rows_are_those_of_the_date_and_not_of_every_night(tmp_path: Path) -> None:
    warehouse = make_report_shop(tmp_path / "w")
    place = ("quarantine", "job=build_sequences", f"date={DATE}", "part-0.parquet")
    kept = pq.ParquetFile(warehouse.path(*place)).read()
    for job, day, rows in (
        ("build_sequences", "2024-06-02", 5),
        ("build_sequences", "2024-06-04", 6),
        ("build_catalog", "2024-06-05", 2),
    ):
        place = ("quarantine", f"job={job}", f"date={day}", "part-0.parquet")
        warehouse.write_parquet(kept.slice(0, rows), *place)
    with open_views(warehouse) as views:
        rows = load_figures(views, DATE, days=7).quarantine
    found = {(row["job"], str(row["date"])): row["num_rows"] for row in rows}
    assert found == {("build_sequences", DATE): 8, ("build_catalog", "2024-06-05"): 2}
    file = tmp_path / "report.html"
    assert report(tmp_path / "w", file) == 0
    assert "Logs and items 10 rows rejected" in Page(file.read_text("utf-8")).text


def test_the_curve_of_coverage_goes_from_nought_to_all_places(tmp_path: Path) -> None:
    with open_views(make_report_shop(tmp_path / "w")) as views:
        figures = load_figures(views, DATE, days=7)
    shares = [(row["item_share"], row["list_share"]) for row in figures.concentration]
    assert len(shares) == len(TITLES)
    assert shares == sorted(shares)
    # Ann and three more have items 8 and 10 first and then ten others; bob has 0, 1 and 2.
    assert shares[0] == (1 / 15, 4 / 39)
    assert shares[11] == (12 / 15, 1.0)
    assert shares[-1] == (1.0, 1.0)
