import errno
import importlib
import re
import resource
import subprocess
import sys

import click
import pytest

from r2ec import errors
from r2ec.cli import main as cli_main


@pytest.fixture
def command(monkeypatch):
    """A command `probe` whose body a test sets: `command(body, *params)`."""

    def register(body, *params):
        probe = click.Command("probe", callback=body, params=list(params))
        monkeypatch.setitem(
            cli_main.COMMANDS, "probe", cli_main.LazyCommand("tests.unit.probe:probe", "A probe.")
        )
        module = type(sys)("tests.unit.probe")
        module.probe = probe
        monkeypatch.setitem(sys.modules, "tests.unit.probe", module)

    return register


def raising(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.R2ecError("it broke"), 1),
        (errors.UsageError("it broke"), 2),
        (errors.NotReadyError("it broke"), 3),
        (errors.GateError("it broke"), 4),
    ],
)
def test_our_errors_become_one_line_and_their_exit_code(command, capsys, error, exit_code):
    command(raising(error))
    assert cli_main.run(["probe"]) == exit_code
    assert capsys.readouterr().err == "error: it broke\n"


def test_what_the_deepspeed_launcher_puts_before_a_command_is_taken(command, capsys):
    command(lambda: click.echo("ran"))
    assert cli_main.run(["--local_rank=1", "probe"]) == 0
    assert capsys.readouterr().out == "ran\n"
    assert cli_main.run(["--help"]) == 0
    assert "local_rank" not in capsys.readouterr().out


def test_full_disk_names_path_and_remedy(command, capsys):
    command(raising(OSError(errno.ENOSPC, "No space left on device", "/data/part-0.parquet")))
    assert cli_main.run(["probe"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: /data/part-0.parquet: the disk is full")


def test_missing_package_names_the_extra_that_brings_it(command, capsys):
    command(raising(ModuleNotFoundError("No module named 'torch'", name="torch")))
    assert cli_main.run(["probe"]) == 3
    assert "pip install 'r2ec[train]'" in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(command):
    command(raising(KeyError("rank")))
    with pytest.raises(KeyError):
        cli_main.run(["probe"])


def test_wrong_use_is_exit_code_2(command):
    command(lambda: None)
    assert cli_main.run(["probe", "--nonsense"]) == 2
    assert cli_main.run(["no-such-command"]) == 2


def test_done_is_exit_code_0(command):
    command(lambda: None)
    assert cli_main.run(["probe"]) == 0


@pytest.mark.parametrize("variable", ["R2EC_TOP_K", "R2EC_PROBE_TOP_K"])
def test_every_option_may_come_from_the_environment(command, monkeypatch, variable):
    seen = []
    command(seen_into(seen), click.Option(["--top-k"], type=int, default=10))
    monkeypatch.setenv(variable, "7")
    assert cli_main.run(["probe"]) == 0
    assert cli_main.run(["probe", "--top-k", "3"]) == 0
    assert seen == [7, 3]


@pytest.mark.parametrize("variable", ["R2EC_SIZE", "R2EC_PROBE_GROW_SIZE"])
def test_options_of_a_command_below_a_group_come_from_the_environment_too(monkeypatch, variable):
    seen = []
    grow = click.Command("grow", callback=lambda size: seen.append(size))
    grow.params.append(click.Option(["--size"], type=int))
    module = type(sys)("tests.unit.probe_group")
    module.probe = click.Group("probe", commands=[grow])
    monkeypatch.setitem(sys.modules, "tests.unit.probe_group", module)
    entry = cli_main.LazyCommand("tests.unit.probe_group:probe", "Probes.")
    monkeypatch.setitem(cli_main.COMMANDS, "probe", entry)
    monkeypatch.setenv(variable, "8")
    assert cli_main.run(["probe", "grow"]) == 0
    assert seen == [8]


def options_below(command, path):
    for option in command.params:
        if isinstance(option, click.Option) and "--log" not in option.opts[0]:
            yield path, option
    for name, below in getattr(command, "commands", {}).items():
        yield from options_below(below, f"{path}_{name}")


@pytest.mark.parametrize("name", list(cli_main.COMMANDS))
def test_the_variable_of_an_option_is_called_as_the_option_is_typed(name):
    for path, option in options_below(cli_main.load_command(name), name):
        typed = max(option.opts, key=len).lstrip("-")
        own = f"R2EC_{path}_{typed}".upper().replace("-", "_")
        variables = [option.envvar] if isinstance(option.envvar, str) else option.envvar
        assert variables[-1] in (own, f"R2EC_{typed}".upper().replace("-", "_")), option.opts
        assert len(variables) == 1 or own in variables, option.opts


def test_what_is_typed_displaces_an_alternative_of_the_environment(tmp_path, monkeypatch, capsys):
    for variable, value in (("R2EC_MODEL", "model"), ("R2EC_DATE", "2024-05-31")):
        monkeypatch.setenv(variable, value)
    command = ["evaluate", "--warehouse", str(tmp_path)]
    assert cli_main.run([*command, "--baseline", "popularity"]) == 3
    assert "sequences" in capsys.readouterr().err
    assert cli_main.run(command) == 2
    assert "give one of --model DIR" in capsys.readouterr().err
    assert cli_main.run([*command, "--model", "model", "--baseline", "popularity"]) == 2
    assert "give one of --model DIR" in capsys.readouterr().err


def seen_into(seen):
    def body(top_k):
        seen.append(top_k)

    return body


def test_log_options_are_taken_before_and_after_the_command(command, capsys):
    def body():
        cli_main.logs.get_logger("r2ec.probe").info("a line")

    command(body)
    assert cli_main.run(["--log-format", "json", "probe"]) == 0
    assert capsys.readouterr().err.startswith("{")
    command(body)
    assert cli_main.run(["probe", "--log-format", "json", "--log-level", "info"]) == 0
    assert capsys.readouterr().err.startswith("{")


def test_help_answers_in_half_a_second_without_heavy_imports():
    code = (
        "import sys; from r2ec.cli import main; main.run(['--help']); "
        "heavy = {'torch', 'pyspark', 'pyarrow', 'numpy', 'duckdb', 'pydantic', 'rich'}; "
        "sys.exit(','.join(heavy & set(sys.modules)) or 0)"
    )
    # Time on the processor: on the clock a busy machine would tell of its other work.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == 0, done.stderr
    assert "Commands:" in done.stdout
    assert seconds < 0.5


@pytest.mark.parametrize("name", list(cli_main.COMMANDS))
def test_every_command_loads_and_explains_itself(name):
    module, function = cli_main.COMMANDS[name].target.split(":")
    assert isinstance(getattr(importlib.import_module(module), function), click.Command)
    loaded = cli_main.load_command(name)
    assert "Example" in (loaded.epilog or "") + (loaded.help or "")
    explain_themselves(loaded, name)


def explain_themselves(command, path):
    assert command.help, f"{path} has no help"
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{path} {option.opts[0]} has no help"
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            explain_themselves(below, f"{path} {name}")


SECTIONS = ("init", "prompt", "model", "paths")


def every_command():
    """The words of each command, `k8s` and those below it too."""
    for name in cli_main.COMMANDS:
        yield (name,)
        loaded = cli_main.load_command(name)
        if isinstance(loaded, click.Group):
            yield from ((name, below) for below in loaded.commands)


def help_at(width, words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli_main.run([*words, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [(), *every_command()], ids=" ".join)
def test_help_of_80_columns_breaks_no_option_address_or_example(words, monkeypatch, capsys):
    narrow = help_at(80, words, monkeypatch, capsys)
    assert max(map(len, narrow.splitlines())) <= 80
    summaries = narrow.split("Commands:")[-1]
    assert not any(line.endswith("...") for line in summaries.splitlines()[1:])
    long_words = {word for word in narrow.split() if re.search(r"[/=_]|^--", word)}
    assert long_words <= set(help_at(200, words, monkeypatch, capsys).split())
    example = narrow.split("Example:\n")[1].replace("\\\n", " ")
    assert example.count("\n") == 1
    assert re.match(r"^ +(?:r2ec-cli|torchrun) \S+", example)


@pytest.mark.parametrize("words", list(every_command()), ids=" ".join)
def test_defaults_in_help_are_told_in_one_way(words, monkeypatch, capsys):
    text = " ".join(help_at(80, words, monkeypatch, capsys).split("Options:")[1].split())
    for told in re.findall(r" \[([^\]|]+)\]", text):
        assert re.match(r"default: |required$|x>=|0<", told) or told in SECTIONS, told
