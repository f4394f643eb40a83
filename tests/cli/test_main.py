"""What all commands share: help, version, the system's failures, threads."""

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys

import pytest

from commands import ENSEMBLE, dmmc
from dmmc.cli import main as cli
from dmmc.cli.options import add_options, attribute_texts, fill, help_text
from dmmc.core.errors import DmmcError
from dmmc.core.progress import progress
from dmmc.runs.chain import ChainOptions
from dmmc.studies.remarks import note


def help_of(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100000")
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help(command, monkeypatch, capsys):
    text = help_of(command, monkeypatch, capsys)
    assert f"\n\n{cli.COMMANDS[command][1:]}.\n\n" in re.sub(r"\n\n.", "\n\n", text, count=1)
    # No markup of docstrings, no defaults that are none, no Python values.
    assert not re.search(r"``|:\w+:`|default: (None|False|\[|\(|')|==SUPPRESS==", text)
    parser = argparse.ArgumentParser()
    cli._module(command).add_arguments(parser)
    for action in parser._actions:
        assert action.help, action.dest
        assert not action.help.endswith("."), action.help
        assert action.help[0].islower() or action.help.startswith(("CPU", "HMC")), action.help
        takes_text = action.nargs != 0 and action.choices is None
        assert not takes_text or action.metavar, f"{action.dest} has no metavar"
        if action.default not in (None, False, [], argparse.SUPPRESS):
            assert "by default" not in action.help, action.help


def test_version_and_general_help(capsys):
    for arguments, text in [(["--version"], "dmmc "), (["--help"], "quickstart"), (["sample", "--help"], "--model")]:
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0 and text in capsys.readouterr().out


def test_options_are_those_of_the_dataclass():
    parser = argparse.ArgumentParser()
    add_options(parser, ChainOptions, skip=("seed",), defaults={"draws": 7}, settings={"block": {"metavar": "SIZE"}})
    args = parser.parse_args(["--keep-every", "3"])
    assert fill(ChainOptions, args, seed=5) == ChainOptions(draws=7, keep_every=3, seed=5)
    assert "--block SIZE" in parser.format_help() and "--seed" not in parser.format_help()
    with pytest.raises(DmmcError, match="must be a positive integer"):
        fill(ChainOptions, parser.parse_args(["--block", "0"]))


def test_help_texts_come_from_docstrings():
    class Documented:
        """Something.

        Attributes:
            first: what ``x`` is, in
                :class:`some.where.Thing`.
            second: whether to do it, 100 % of it.

        Raises:
            KeyError: never.
        """

    texts = attribute_texts(Documented)
    assert texts == {"first": "what x is, in Thing.", "second": "whether to do it, 100 % of it."}
    assert help_text(texts["second"]) == "do it, 100 %% of it"


def test_a_reader_that_closes_the_pipe_is_no_error(made):
    command = f"{sys.executable} -m dmmc ensemble --help | head -c 1 >&2; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ended.returncode in (0, 1) and "Traceback" not in ended.stderr and "BrokenPipe" not in ended.stderr


@contextlib.contextmanager
def standard_stream(name, monkeypatch):
    """Stands in for a standard stream: the one that is used, and the descriptor of its reader."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", buffering=1) as stream, monkeypatch.context() as patch:
        patch.setattr(sys, name, stream)
        yield reader, stream


def printing(args):
    """A command that says much, on standard output and standard error, before it has a result."""
    for _ in range(3):
        print("a line", flush=True)
        note("a remark")
    with progress("work", 2) as bar:
        bar.advance(1)
    return {"finished": True}


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_work_does_not_end_because_nobody_reads_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.setattr("dmmc.cli.ensemble.run", printing)
    monkeypatch.setattr("dmmc.core.progress.EVERY_SECONDS", 0.0)
    with standard_stream(name, monkeypatch) as (reader, stream):
        os.close(reader)
        code = dmmc(*ENSEMBLE, "--out", tmp_path / "new.h5", "--json", tmp_path / "new.json")
        assert getattr(sys, name) is stream
    assert code == (1 if name == "stdout" else 0)
    assert json.loads((tmp_path / "new.json").read_text()) == {"finished": True}


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_streams_that_were_closed_before_the_start(name, tmp_path, monkeypatch):
    monkeypatch.setattr("dmmc.cli.ensemble.run", printing)
    monkeypatch.setattr(sys, name, None)
    assert dmmc(*ENSEMBLE, "--out", tmp_path / "new.h5", "--json", tmp_path / "new.json") == 0
    assert json.loads((tmp_path / "new.json").read_text()) == {"finished": True}
    getattr(sys, name).close()


def test_remarks_and_progress_without_the_command_line(monkeypatch):
    """A program of one's own goes on as well."""
    monkeypatch.setattr("dmmc.core.progress.EVERY_SECONDS", 0.0)
    with standard_stream("stderr", monkeypatch) as (reader, stream):
        os.close(reader)
        assert printing(None) == {"finished": True}
        with contextlib.suppress(BrokenPipeError):
            stream.close()
        assert printing(None) == {"finished": True}
        monkeypatch.setattr(sys, "stderr", None)
        assert printing(None) == {"finished": True}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
def test_standard_output_on_a_full_disk_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dmmc.cli.ensemble.run", printing)
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert dmmc(*ENSEMBLE, "--out", tmp_path / "new.h5", "--json", tmp_path / "new.json") == 1
    assert "No space left on device: 'standard output'; put that right" in capsys.readouterr().err
    assert json.loads((tmp_path / "new.json").read_text()) == {"finished": True}


def test_a_full_disk_ends_in_one_line(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dmmc.runs.journal.replace_file", full)
    assert dmmc(*ENSEMBLE, "--out", tmp_path / "new.h5") == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said and "--resume" in said and said.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert dmmc(*ENSEMBLE, "--out", tmp_path / "new.h5") == 2
    assert "can be written to" in capsys.readouterr().err


def test_a_summary_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    def begun(args):
        raise AssertionError("the work has begun")

    monkeypatch.setattr("dmmc.cli.ensemble.run", begun)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert dmmc(*ENSEMBLE, "--out", tmp_path / "new.h5", "--json", tmp_path / "new.json") == 2
    assert "is not a directory that can be written to" in capsys.readouterr().err


def test_the_summary_is_json_without_nan(tmp_path, monkeypatch):
    monkeypatch.setattr("dmmc.cli.ensemble.run", lambda args: {"a": float("nan"), "b": (1.5, float("inf"))})
    assert dmmc(*ENSEMBLE, "--out", tmp_path / "new.h5", "--json", tmp_path / "new.json") == 0
    assert json.loads((tmp_path / "new.json").read_text()) == {"a": None, "b": [1.5, None]}


def test_an_earlier_summary_is_replaced_if_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("dmmc.cli.ensemble.run", lambda args: {"new": True})
    arguments = [*ENSEMBLE, "--out", tmp_path / "new.h5", "--json", tmp_path / "new.json"]
    for how in ("--overwrite", "--resume"):
        (tmp_path / "new.json").write_text('{"new": false}')
        assert dmmc(*arguments) == 2
        assert dmmc(*arguments, how) == 0
        assert json.loads((tmp_path / "new.json").read_text()) == {"new": True}


def test_a_terminal_that_cannot_show_a_name_is_no_failure(tmp_path, monkeypatch):
    def run(args):
        print(args.out)
        return {"file": str(args.out)}

    monkeypatch.setattr("dmmc.cli.ensemble.run", run)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert dmmc(*ENSEMBLE, "--out", tmp_path / "caf\u00e9 \udce9.h5", "--json", tmp_path / "caf\u00e9.json") == 0
    sys.stdout.flush()
    assert written.getvalue().decode("ascii").endswith("caf\\xe9 \\udce9.h5\n")
    assert json.loads((tmp_path / "caf\u00e9.json").read_text()) == {"file": str(tmp_path / "caf\u00e9 \udce9.h5")}


def test_what_resume_does_is_said_for_each_command(monkeypatch, capsys):
    said = {command: re.search(r"--resume +(.*)", help_of(command, monkeypatch, capsys)) for command in cli.COMMANDS}
    without = {"import", "export", "report", "check-action", "gallery", "quickstart"}
    assert {command for command, text in said.items() if text is None} == without
    assert [command for command, text in said.items() if text and "extend a finished chain" in text[1]] == [
        "ensemble", "sample"
    ]  # fmt: skip
    assert all("where nothing was saved, begin afresh" in text[1] for text in said.values() if text)
