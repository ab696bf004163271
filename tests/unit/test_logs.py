import io
import json
import logging
import re

import pytest

from r2ec import logs


@pytest.fixture(autouse=True)
def _restored_logger():
    logger = logging.getLogger("r2ec")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def test_json_lines_hold_message_and_extra_fields(capsys):
    logs.configure("json")
    logs.get_logger("r2ec.train").info("step %d", 3, extra={"reward": 0.25, "user": "é"})
    line = json.loads(capsys.readouterr().err)
    assert line["message"] == "step 3"
    assert line["level"] == "info"
    assert line["logger"] == "r2ec.train"
    assert line["reward"] == 0.25
    assert line["user"] == "é"
    assert line["time"].endswith("+00:00")


def test_configuring_again_does_not_write_a_line_twice(capsys):
    logs.configure()
    logs.configure()
    logs.get_logger("r2ec.x").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_level_hides_lighter_lines(capsys):
    logs.configure("text", "warning")
    logs.get_logger("r2ec.x").info("quiet")
    logs.get_logger("__main__").warning("loud")
    shown = capsys.readouterr().err
    assert "quiet" not in shown
    assert "loud" in shown


def test_unknown_level_is_refused():
    with pytest.raises(ValueError, match="CHATTY"):
        logs.configure("text", "chatty")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_seconds_read_well(seconds, text):
    assert logs.format_seconds(seconds) == text


def test_progress_line_gives_rate_and_time_left():
    line = logs.format_progress("users", 1_000, 3_000, elapsed=10.0)
    assert line == "users: 1,000 of 3,000, 100.0/s, 20 s left"


def test_progress_without_terminal_writes_lines_not_bars(capsys, monkeypatch):
    monkeypatch.setattr(logs, "LINE_EVERY_SECONDS", 0.0)
    logs.configure()
    with logs.progress("users", 4, stream=io.StringIO()) as advance:
        advance(1)
        advance(3)
    shown = capsys.readouterr().err
    assert "users: 1 of 4" in shown
    assert "users: 4 of 4" in shown
    assert "done in" in shown
    assert "\x1b" not in shown


def test_progress_on_a_terminal_draws_a_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    logs.configure()
    screen = Terminal()
    with logs.progress("users", 4, stream=screen) as advance:
        advance(4)
    assert "4/4" in screen.getvalue()


def drawn_by(width, total, counts, monkeypatch, **kinds):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    logs.configure()
    monkeypatch.setenv("COLUMNS", str(width))
    screen = Terminal()
    with logs.progress("users", total, stream=screen, **kinds) as advance:
        for count in counts:
            advance(count)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]", drawn)]


def test_a_bar_tells_the_total_before_the_first_is_done(monkeypatch):
    lines = drawn_by(80, 4, [], monkeypatch)
    assert any(line.endswith(" 0/4") for line in lines)


def test_a_total_that_is_an_estimate_says_so_and_gives_way_to_what_was_done(monkeypatch):
    lines = drawn_by(80, 2_000, [1_990], monkeypatch, is_estimate=True)
    kinds = {"is_bytes": False, "is_estimate": True}
    assert logs._told(0, 2_000, 1.0, **kinds) == "0/~2,000"
    assert logs._told(500, 2_000, 1.0, **kinds) == "500/~2,000, 500.0/s, 3 s left"
    assert re.search(r" 1,990, [\d,.]+/s, 0 s$", [line for line in lines if line][-1])
    line = logs.format_progress("users", 1_000, 3_000, elapsed=10.0, is_estimate=True)
    assert line == "users: 1,000 of about 3,000, 100.0/s, 20 s left"


@pytest.mark.parametrize("width", [50, 60, 80, 200])
def test_figures_of_a_bar_are_whole_on_any_terminal(width, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    logs.configure()
    monkeypatch.setenv("COLUMNS", str(width))
    screen = Terminal()
    with logs.progress("[users] of shard 3 of 16, on 2024-05-31", 62_500, stream=screen) as advance:
        advance(31_250)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    lines = [line.rstrip() for line in re.split(r"[\r\n]", drawn)]
    assert max(map(len, lines)) <= width
    assert any(
        re.search(r"\[users.* 31,250/62,500, [\d,.]+/s, \d+ s left$", line) for line in lines
    )
