"""Folders of results: plans that are compared when they are resumed, typed results, what is removed."""

import json
from dataclasses import dataclass

import pytest

from dmmc.core.errors import FileError, MismatchError
from dmmc.core.records import Record
from dmmc.studies.folder import LONG, PLAN, Result, begun, open_folder, remove_run

WHAT = {"resume": False, "overwrite": False}


@dataclass(frozen=True)
class Weighing(Record):
    """A record for these tests."""

    name: str
    grams: tuple[float, ...]
    note: str | None = None


RESULT = Result("weighing.json", "test-weighing", "weighing", Weighing)


def opened(out, plan, removed=None, **change):
    open_folder(out, plan, "weighing", **{**WHAT, **change}, remove=(removed if removed is not None else []).append)


def test_a_new_folder_gets_the_plan_and_the_same_plan_is_resumed(tmp_path):
    out, plan = tmp_path / "a" / "b", {"seed": 1, "shape": (2, 2)}
    opened(out, plan)
    assert json.loads((out / PLAN).read_text()) == {"seed": 1, "shape": [2, 2]}
    opened(out, plan, resume=True)
    assert [path.name for path in out.iterdir()] == [PLAN]


def test_another_plan_is_not_resumed_and_the_message_says_what_differs(tmp_path):
    opened(tmp_path / "out", {"seed": 1, "shape": [2], "table": list(range(LONG))})
    with pytest.raises(MismatchError) as refused:
        opened(tmp_path / "out", {"seed": 2, "shape": [2], "table": [], "mass": 0.5}, resume=True)
    message = str(refused.value)
    assert "mass is None there and 0.5 here; seed is 1 there and 2 here; table differ;" in message
    assert "shape" not in message


def test_nothing_is_overwritten_unless_asked_for(tmp_path):
    out, removed = tmp_path / "out", []
    opened(out, {"seed": 1})
    with pytest.raises(FileError, match="holds a weighing"):
        opened(out, {"seed": 2}, removed)
    assert json.loads((out / PLAN).read_text()) == {"seed": 1} and removed == []
    opened(out, {"seed": 2}, removed, overwrite=True)
    assert json.loads((out / PLAN).read_text()) == {"seed": 2} and removed == [{"seed": 1}]


def test_what_cannot_be_a_folder_of_results_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="is a file"):
        opened(tmp_path / "file", {"seed": 1})
    with pytest.raises(FileError, match="no weighing to resume"):
        opened(tmp_path / "none", {"seed": 1}, resume=True)
    assert not (tmp_path / "none").exists()
    for damaged in ("{", "[1]", '{"colour": "red"}'):
        (tmp_path / PLAN).write_text(damaged)
        with pytest.raises(FileError, match="damaged"):
            opened(tmp_path, {"seed": 1}, overwrite=True)


def test_a_result_is_read_from_its_folder_and_from_the_file(tmp_path):
    weighed = Weighing("flour", (1.5, 2.5))
    path = RESULT.write(tmp_path, weighed)
    assert path == tmp_path / "weighing.json" and [file.name for file in tmp_path.iterdir()] == [path.name]
    assert RESULT.read(tmp_path) == RESULT.read(str(path)) == weighed
    assert json.loads(path.read_text())["format"] == "test-weighing"
    assert RESULT.is_at(tmp_path) and RESULT.is_at(path) and not RESULT.is_at(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not the result of a finished weighing"),
        ("[]", "not the result of a weighing"),
        ('{"format": "other"}', "not the result of a weighing"),
        ('{"format": "test-weighing", "version": 1, "name": "flour"}', "grams"),
        ('{"format": "test-weighing", "version": 1, "name": "flour", "grams": ["heavy"]}', "grams"),
        ('{"format": "test-weighing", "version": 99, "name": "flour", "grams": []}', "update dmmc"),
    ],
)
def test_a_damaged_result_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / RESULT.file).write_text(text)
    with pytest.raises(FileError, match=message) as refused:
        RESULT.read(tmp_path)
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)
    (tmp_path / RESULT.file).unlink()
    with pytest.raises(FileError, match="not the result of a finished weighing"):
        RESULT.read(tmp_path)


def test_a_run_is_begun_with_its_manifest_and_removed_with_all_that_is_left_of_it(tmp_path):
    run, journal = tmp_path / "chain.h5", tmp_path / "chain.h5.partial"
    assert not begun(run)
    journal.mkdir()
    assert not begun(run)
    for path in (journal / "manifest.json", journal / "block_000000.h5", tmp_path / "chain.h5.checkpoint"):
        path.write_text("")
    other = tmp_path / "other.h5"
    other.write_text("")
    assert begun(run)
    remove_run(run)
    assert not begun(run) and list(tmp_path.iterdir()) == [other]
    run.write_text("")
    assert begun(run)
    remove_run(run)
    remove_run(run)
    assert list(tmp_path.iterdir()) == [other]
