import errno
import gzip
import hashlib
import io
import json
import logging
import random
import shutil
import socket
import sys
import urllib.request
from collections import namedtuple

import pytest

from r2ec import download, logs
from r2ec.checksums import Checksum
from r2ec.cli import main as cli_main
from r2ec.download import Patience, fetch, read_sums
from r2ec.errors import NotReadyError, R2ecError, UsageError
from tests.factories.file_server import serving

DATA = random.Random(0).randbytes(700_000)
OTHER = random.Random(1).randbytes(700_000)
QUICK = Patience(tries=3, first_wait_seconds=0.0, timeout_seconds=5.0)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No proxy between test and server; the log's handlers as they were."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    logger = logging.getLogger("r2ec")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def sha256(data):
    return Checksum("sha256", hashlib.sha256(data).hexdigest())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_leaves_no_part_behind(tmp_path):
    with serving(files={"/a.csv": DATA}) as server:
        fetched = fetch(f"{server.url}/a.csv", tmp_path / "x" / "a.csv", patience=QUICK)
    assert fetched.path.read_bytes() == DATA
    assert (fetched.num_bytes, fetched.was_there) == (len(DATA), False)
    assert names(tmp_path / "x") == ["a.csv"]


def test_a_connection_that_breaks_off_is_gone_on_with_from_that_byte(tmp_path):
    with serving(files={"/a": DATA}, break_after=[300_000, 100_000]) as server:
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK, checksum=sha256(DATA))
    assert (tmp_path / "a").read_bytes() == DATA
    etag = f'"{hashlib.md5(DATA).hexdigest()}"'
    assert server.requests == [
        ("/a", None, None),
        ("/a", "bytes=300000-", etag),
        ("/a", "bytes=400000-", etag),
    ]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(tmp_path):
    patience = Patience(tries=1, first_wait_seconds=0.0)
    with serving(files={"/a": DATA}, break_after=[300_000]) as server:
        with pytest.raises(NotReadyError, match=r"broke off at byte 300,000.*run the same command"):
            fetch(f"{server.url}/a", tmp_path / "a", patience=patience)
        assert names(tmp_path) == ["a.part", "a.part.json"]
        fetch(f"{server.url}/a", tmp_path / "a", patience=patience)
    assert [range for _, range, _ in server.requests] == [None, "bytes=300000-"]
    assert (tmp_path / "a").read_bytes() == DATA
    assert names(tmp_path) == ["a"]


def test_breaks_do_not_add_up_while_bytes_come(tmp_path):
    with serving(files={"/a": DATA}, break_after=[100_000] * 6) as server:
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == DATA
    assert len(server.requests) == 7


def test_a_server_that_ignores_range_is_read_from_the_start(tmp_path):
    with serving(files={"/a": DATA}, break_after=[300_000], heeds_range=False) as server:
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("num_bytes", [200_000, 700_000])
def test_a_file_that_changed_in_between_is_read_from_the_start(tmp_path, heeds_if_range, num_bytes):
    changed = OTHER[:num_bytes]
    with serving(
        files={"/a": DATA},
        break_after=[300_000],
        changes_to=changed,
        heeds_if_range=heeds_if_range,
    ) as server:
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == changed


def test_without_a_validator_nothing_is_gone_on_with(tmp_path):
    with serving(
        files={"/a": DATA}, break_after=[300_000], changes_to=OTHER, has_etag=False
    ) as server:
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == OTHER
    assert [range for _, range, _ in server.requests] == [None, None]


def test_a_checksum_lets_a_part_without_a_validator_be_gone_on_with(tmp_path):
    with serving(files={"/a": DATA}, break_after=[300_000], has_etag=False) as server:
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK, checksum=sha256(DATA))
    assert [range for _, range, _ in server.requests] == [None, "bytes=300000-"]
    with serving(
        files={"/b": DATA}, break_after=[300_000], changes_to=OTHER, has_etag=False
    ) as server:
        fetch(f"{server.url}/b", tmp_path / "b", patience=QUICK, checksum=sha256(OTHER))
    assert (tmp_path / "b").read_bytes() == OTHER


def test_a_part_of_another_address_is_not_gone_on_with(tmp_path):
    with serving(files={"/a": DATA, "/b": OTHER}, break_after=[300_000]) as server:
        with pytest.raises(NotReadyError):
            fetch(f"{server.url}/a", tmp_path / "x", patience=Patience(tries=1))
        fetch(f"{server.url}/b", tmp_path / "x", patience=QUICK)
    assert (tmp_path / "x").read_bytes() == OTHER
    assert [range for _, range, _ in server.requests] == [None, None]


def test_503_twice_is_met_with_patience_and_thrice_is_not(tmp_path):
    with serving(files={"/a": DATA}, failing=[503, 503]) as server:
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == DATA
    with (
        serving(files={"/b": DATA}, failing=[503] * 3) as server,
        pytest.raises(NotReadyError, match=r"503.*3 times in a row"),
    ):
        fetch(f"{server.url}/b", tmp_path / "b", patience=QUICK)


def test_waits_double_up_to_a_minute():
    patience = Patience(first_wait_seconds=1.0)
    assert [patience.wait_seconds(n) for n in (1, 2, 3, 7, 20)] == [1, 2, 4, 60, 60]


def test_an_unreachable_server_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a"
    with pytest.raises(NotReadyError, match=r"/a: the server cannot be reached"):
        fetch(url, tmp_path / "a", patience=QUICK)


@pytest.mark.parametrize(("status", "message"), [(404, "no such file"), (403, "refuses it")])
def test_a_refusal_is_not_tried_again(tmp_path, status, message):
    with serving(failing=[status]) as server, pytest.raises(NotReadyError, match=message) as error:
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert f"{server.url}/a" in str(error.value)
    assert len(server.requests) == 1


def test_bytes_that_are_not_those_of_the_checksum_are_thrown_away(tmp_path):
    with serving(files={"/a": DATA}) as server, pytest.raises(R2ecError, match="was asked for"):
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK, checksum=sha256(OTHER))
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "a.part").exists()


def test_a_damaged_part_costs_one_more_fetch_and_no_more(tmp_path):
    with serving(files={"/a": DATA}, break_after=[300_000]) as server:
        with pytest.raises(NotReadyError):
            fetch(f"{server.url}/a", tmp_path / "a", patience=Patience(tries=1))
        (tmp_path / "a.part").write_bytes(b"\0" * 300_000)
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK, checksum=sha256(DATA))
    assert (tmp_path / "a").read_bytes() == DATA
    assert [range for _, range, _ in server.requests] == [None, "bytes=300000-", None]


def test_a_file_that_is_there_stays_unless_the_checksum_or_the_person_says_otherwise(tmp_path):
    target = tmp_path / "a"
    target.write_bytes(OTHER)
    with serving(files={"/a": DATA}) as server:
        url = f"{server.url}/a"
        assert fetch(url, target, patience=QUICK).was_there
        assert fetch(url, target, patience=QUICK, checksum=sha256(OTHER)).was_there
        assert server.requests == []
        assert not fetch(url, target, patience=QUICK, checksum=sha256(DATA)).was_there
        target.write_bytes(OTHER)
        assert not fetch(url, target, patience=QUICK, overwrite=True).was_there
    assert target.read_bytes() == DATA


def test_a_page_of_apology_does_not_pass_for_a_compressed_file(tmp_path):
    with (
        serving(files={"/a.csv.gz": b"<html>log in first</html>"}) as server,
        pytest.raises(R2ecError, match="no gzip file"),
    ):
        fetch(f"{server.url}/a.csv.gz", tmp_path / "a.csv.gz", patience=QUICK)
    assert not (tmp_path / "a.csv.gz").exists()


def test_a_body_of_unknown_length_is_taken_with_a_word_of_warning(tmp_path, capsys):
    logs.configure()
    with serving(files={"/a": DATA}, says_length=False) as server:
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == DATA
    assert "is it whole?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.csv.gz", gzip.compress(DATA)), ("a.jsonl", b'{"a": "' + b"x" * 400_000 + b'"}\n{"b": 1}')],
)
def test_a_file_of_unknown_length_is_read_to_its_end_marker(tmp_path, name, data):
    cut = len(data) - 5
    with serving(files={f"/{name}": data}, says_length=False, break_after=[cut]) as server:
        with pytest.raises(NotReadyError, match=r"not all of it has come.*run the same command"):
            fetch(f"{server.url}/{name}", tmp_path / name, patience=QUICK)
        assert names(tmp_path) == [f"{name}.part", f"{name}.part.json"]
        fetch(f"{server.url}/{name}", tmp_path / name, patience=QUICK)
    assert (tmp_path / name).read_bytes() == data
    assert [range for _, range, _ in server.requests] == [None, f"bytes={cut}-"]


def test_a_second_download_of_the_same_file_is_refused(tmp_path):
    with (
        serving(files={"/a": DATA}) as server,
        download._locked(tmp_path / "a.part"),
        pytest.raises(R2ecError, match="another download is writing it"),
    ):
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK)


def test_a_file_larger_than_the_room_is_refused_before_it_comes(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(0, 0, 1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with serving(files={"/a": DATA}) as server, pytest.raises(R2ecError, match="room for 1,000"):
        fetch(f"{server.url}/a", tmp_path / "a", patience=QUICK)


def test_a_full_disk_is_no_broken_connection(tmp_path):
    remote = download._Remote(url="", etag=None, last_modified=None, num_bytes=len(DATA))
    with serving(files={"/a": DATA}) as server, open("/dev/full", "r+b", buffering=0) as full:
        request = urllib.request.Request(f"{server.url}/a")
        with (
            download._opened(request, full, QUICK) as response,
            pytest.raises(OSError, match="No space left") as error,
        ):
            download._receive(response, full, tmp_path / "a.part", remote, 0)
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / "a.part")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "a.csv", "http:///a"])
def test_only_http_addresses_are_fetched(tmp_path, url):
    with pytest.raises(UsageError, match="http://"):
        fetch(url, tmp_path / "a")


@pytest.mark.parametrize("text", ["", "xyz", "12", "sha256:" + "0" * 32, "z" * 64])
def test_a_text_that_is_no_checksum_is_refused(text):
    with pytest.raises(UsageError, match="no checksum"):
        Checksum.parse(text)


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_the_length_of_a_checksum_tells_its_algorithm(tmp_path, algorithm):
    (tmp_path / "a").write_bytes(DATA)
    digest = hashlib.new(algorithm, DATA).hexdigest()
    assert Checksum.parse(digest.upper()).of(tmp_path / "a") == Checksum(algorithm, digest)
    assert Checksum.parse(f"{algorithm}:{digest}") == Checksum(algorithm, digest)


def test_sums_are_read_as_the_usual_programs_write_them(tmp_path):
    md5, sha = hashlib.md5(DATA).hexdigest(), hashlib.sha256(DATA).hexdigest()
    text = f"# sums\n{md5}  a.csv\n{sha} *./b c.csv\nSHA256 (d.csv) = {sha}\n"
    with serving(files={"/SUMS": text.encode(), "/none": b"<html>\n"}) as server:
        sums = read_sums(f"{server.url}/SUMS", QUICK)
        with pytest.raises(UsageError, match="no line of it"):
            read_sums(f"{server.url}/none", QUICK)
    assert sums == {
        "a.csv": Checksum("md5", md5),
        "b c.csv": Checksum("sha256", sha),
        "d.csv": Checksum("sha256", sha),
    }


RATINGS = "/benchmark/0core/rating_only/Gift_Cards.csv.gz"
ITEMS = "/raw/meta_categories/meta_Gift_Cards.jsonl.gz"
SHOP = {RATINGS: gzip.compress(b"user_id\n"), ITEMS: gzip.compress(b"{}\n")}


def run(*arguments):
    return cli_main.run(["download", "--first-wait", "0", *map(str, arguments)])


def test_the_command_brings_both_files_under_the_names_of_the_data_set(
    tmp_path, monkeypatch, capsys
):
    with serving(files=SHOP) as server:
        monkeypatch.setenv("R2EC_DOWNLOAD_URL", f"{server.url}/")
        assert run("Gift_Cards", tmp_path) == 0
    assert (tmp_path / "Gift_Cards.csv.gz").read_bytes() == SHOP[RATINGS]
    assert (tmp_path / "meta_Gift_Cards.jsonl.gz").read_bytes() == SHOP[ITEMS]
    assert "next: spark-submit jobs/build_catalog.py --items" in capsys.readouterr().out


def test_paths_and_choice_of_the_file_are_settings(tmp_path):
    with serving(files={"/x/Gift_Cards.csv": DATA}) as server:
        options = ("--base-url", server.url, "--ratings-path", "x/{category}.csv")
        assert run(*options, "--only", "ratings", "Gift_Cards", tmp_path) == 0
    assert names(tmp_path) == ["Gift_Cards.csv"]


def test_a_wrong_category_names_the_address_and_the_remedy(tmp_path, capsys):
    with serving(files=SHOP) as server:
        assert run("--base-url", server.url, "Gift_Card", tmp_path) == 3
    shown = capsys.readouterr().err
    assert f"{server.url}/benchmark/0core/rating_only/Gift_Card.csv.gz" in shown
    assert "check the category's name" in shown


def test_checksums_come_from_the_command_line_or_from_a_file_beside(tmp_path, capsys):
    good = {path: hashlib.sha256(data).hexdigest() for path, data in SHOP.items()}
    sums = {
        f"{path.rpartition('/')[0]}/SHA256SUMS": f"{digest}  {path.rpartition('/')[2]}\n".encode()
        for path, digest in good.items()
    }
    with serving(files=SHOP | sums) as server:
        base = ("--base-url", server.url)
        assert run(*base, "--sums", "SHA256SUMS", "Gift_Cards", tmp_path / "a") == 0
        assert capsys.readouterr().out.count("sha256:") == 2
        wrong = ("--checksum", f"Gift_Cards.csv.gz={good[ITEMS]}")
        assert run(*base, *wrong, "Gift_Cards", tmp_path / "b") == 1
        assert "was asked for" in capsys.readouterr().err
        assert not (tmp_path / "b" / "Gift_Cards.csv.gz").exists()
        right = ("--checksum", f"Gift_Cards.csv.gz={good[RATINGS]}")
        assert run(*base, *right, "Gift_Cards", tmp_path / "b") == 0
        assert run(*base, "--sums", "MD5SUMS", "Gift_Cards", tmp_path / "c") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("../x", "out"), "CATEGORY '../x'"),
        (("--checksum", "other.csv=00", "Gift_Cards", "out"), "--checksum 'other.csv=00'"),
        (("--base-url", "ftp://x", "Gift_Cards", "out"), "http://"),
    ],
)
def test_a_wrong_value_of_the_command_is_named(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_bar_and_a_log_gets_a_line(tmp_path, monkeypatch, capsys):
    logs.configure()
    with serving(files={"/a.csv": DATA}) as server:
        fetch(f"{server.url}/a.csv", tmp_path / "a.csv", patience=QUICK)
        assert "a.csv: 700.0 kB" in capsys.readouterr().err
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        fetch(f"{server.url}/a.csv", tmp_path / "b.csv", patience=QUICK)
    assert "700.0 kB/700.0 kB" in terminal.getvalue()


def test_what_a_part_is_of_is_written_before_its_bytes(tmp_path):
    with (
        serving(files={"/a": DATA}, break_after=[0]) as server,
        pytest.raises(NotReadyError),
    ):
        fetch(f"{server.url}/a", tmp_path / "a", patience=Patience(tries=1))
    record = json.loads((tmp_path / "a.part.json").read_text())
    assert record["num_bytes"] == len(DATA)
