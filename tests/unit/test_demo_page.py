"""What `demo` writes on the terminal."""

import subprocess
import sys

import pytest

from r2ec.cli.demo_summary import near, show_summary
from r2ec.cli.waiting import last_line, wait_for

SUMMARY = {
    "date": "2023-12-30",
    "seconds": 214.2,
    "rows": {
        "catalog": 1_000_901,
        "sequences": 17_394_000,
        "histories": 2_500_000,
        "quarantine": 420_000,
        "recommendations": 25_000_000,
    },
    "finish_reasons": {"marker": 2_400_000, "length": 90_000, "eos": 10_000},
    "metrics": [
        {"run_id": run, "metric": metric, "value": 0.1, "ci_low": 0.05, "ci_high": 0.15}
        for run in ("popularity", "untrained", "contrastive", "recpo")
        for metric in ("ndcg@10", "hit_rate@10")
    ],
    "users_shown": [],
}


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_summary_fits_the_terminal_and_breaks_no_word(tmp_path, width, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width))
    show_summary(SUMMARY, tmp_path / "a folder", "2023-12-30")
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= min(width, 80)
    assert "Done in 3 min 34 s." in shown
    assert "N@10 is 1 for the first place" in " ".join(shown.split())
    assert "recpo        N@10 0.1000 [0.0500, 0.1500]" in shown
    assert "H@10 0.1000 [0.0500, 0.1500]\n" in shown
    assert "recommendations 25,000,000" in " ".join(shown.split())
    assert "export R2EC_WAREHOUSE='a folder/warehouse'" in shown


def test_paths_are_told_from_here_where_they_lie_below(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert near(tmp_path / "demo" / "logs") == "demo/logs"
    assert near(tmp_path.parent) == str(tmp_path.parent)


def test_the_newest_line_of_the_logs_is_told_without_what_acts_on_a_terminal(tmp_path):
    log = tmp_path / "a.log"
    log.write_bytes(b"first\n02:29:03 step 3 \x1b[31mof 9\n\n")
    assert last_line([log]) == r"step 3 \x1b[31mof 9"
    log.write_bytes(b"")
    assert last_line([log]) == ""


@pytest.mark.parametrize("codes", [[0, 0], [0, 3]], ids=["both end", "one fails"])
def test_waiting_ends_with_the_last_process_or_the_first_failure(tmp_path, codes, capsys):
    log = tmp_path / "a.log"
    log.touch()
    program = "import sys, time; time.sleep(60 * int(sys.argv[2])); sys.exit(int(sys.argv[1]))"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(code), str(int(waits))])
        for code, waits in zip(codes, (3 in codes, False), strict=True)
    ]
    try:
        wait_for(processes, [log, log], "[ 1/11] a stage")
        assert [process.poll() for process in processes] == ([None, 3] if 3 in codes else codes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert capsys.readouterr().out == "[ 1/11] a stage"
