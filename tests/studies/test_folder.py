"""Folders of results: plans that are compared when they are resumed, typed results, what is removed."""

import json
from dataclasses import dataclass

import pytest

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.core.records import Record
from dmmc.studies.folder import LONG, PLAN, Folder, Result, present, remove


@dataclass(frozen=True)
class Weighing(Record):
    """A record for these tests."""

    name: str
    grams: tuple[float, ...]
    note: str | None = None


RESULT = Result("weighing.json", "test-weighing", "weighing", Weighing)


def folder(out, plan, what="weighing"):
    """A folder whose plan names the runs that it holds."""
    return Folder(out, what, plan, lambda plan: [*(f"{name}/run.h5" for name in plan.get("runs", ())), "table.txt"])


def opened(out, plan, resume=False, overwrite=False, what="weighing"):
    said = []
    folder(out, plan, what).open(resume, overwrite, said.append)
    return said


def held(out):
    """The plan in a folder, without its kind."""
    return {key: value for key, value in json.loads((out / PLAN).read_text()).items() if key != "kind"}


def test_a_new_folder_gets_the_plan_and_the_same_plan_is_resumed(tmp_path):
    out, plan = tmp_path / "a" / "b", {"seed": 1, "shape": (2, 2)}
    assert opened(out, plan) == []
    assert json.loads((out / PLAN).read_text()) == {"kind": "weighing", "seed": 1, "shape": [2, 2]}
    assert opened(out, plan, resume=True) == [f"going on with {out}"]
    assert [path.name for path in out.iterdir()] == [PLAN]


def test_where_there_is_nothing_to_resume_the_study_begins_afresh(tmp_path):
    out = tmp_path / "new"
    assert opened(out, {"seed": 1}, resume=True) == [f"nothing of {out} was saved yet: starting afresh"]
    assert held(out) == {"seed": 1}


def test_another_plan_is_not_resumed_and_the_message_says_what_differs(tmp_path):
    opened(tmp_path / "out", {"seed": 1, "shape": [2], "table": list(range(LONG))})
    with pytest.raises(MismatchError) as refused:
        opened(tmp_path / "out", {"seed": 2, "shape": [2], "table": [], "mass": 0.5}, resume=True)
    message = str(refused.value)
    assert "mass is None there and 0.5 here; seed is 1 there and 2 here; table differ;" in message
    assert "shape" not in message


def test_nothing_is_overwritten_unless_asked_for(tmp_path):
    out = tmp_path / "out"
    opened(out, {"seed": 1, "runs": ["old"]})
    for name in ("old/run.h5", "old/mine.txt", "table.txt", "mine.txt"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("")
    with pytest.raises(FileError, match="holds a weighing; go on with --resume"):
        opened(out, {"seed": 2})
    with pytest.raises(DmmcError, match="not both"):
        opened(out, {"seed": 1, "runs": ["old"]}, resume=True, overwrite=True)
    assert held(out)["seed"] == 1 and (out / "table.txt").exists()
    opened(out, {"seed": 2}, overwrite=True)
    assert held(out) == {"seed": 2}
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.*")} == {PLAN, "mine.txt", "old/mine.txt"}


def test_files_of_others_in_the_way_are_not_replaced(tmp_path):
    """Nor are runs of others taken for those of the plan."""
    for name in ("table.txt", "a/run.h5"):
        out = tmp_path / name.replace("/", "-")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        for resume in (False, True):
            with pytest.raises(FileError, match=f"holds {name}, which this weighing would replace"):
                opened(out, {"runs": ["a"]}, resume=resume)
        assert (out / name).read_text() == "mine" and not (out / PLAN).exists()
        opened(out, {"runs": ["a"]}, overwrite=True)
        assert not (out / name).exists() and (out / PLAN).exists()


def test_folders_of_different_kinds_are_not_confused(tmp_path):
    opened(tmp_path, {"seed": 1}, what="scan")
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(FileError, match="holds a scan, not a weighing; choose another --out"):
            opened(tmp_path, {"seed": 1}, **how)


def test_what_cannot_be_a_folder_of_results_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="is a file"):
        opened(tmp_path / "file", {"seed": 1})
    for damaged in ("{", "[1]", '{"colour": "red"}', '{"kind": 1}'):
        (tmp_path / PLAN).write_text(damaged)
        with pytest.raises(FileError, match="damaged"):
            opened(tmp_path, {"seed": 1}, overwrite=True)
        assert (tmp_path / PLAN).read_text() == damaged


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


def test_a_file_is_removed_with_all_that_is_left_of_it_and_nothing_else(tmp_path):
    leftovers = (
        "chain.h5.partial/manifest.json",
        "chain.h5.partial/block_000000.h5",
        "chain.h5.checkpoint",
        "chain.h5",
    )
    for name in (*leftovers, "chain.h5.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
        assert present(tmp_path, ["chain.h5", "other.h5"]) == ["chain.h5"]
        remove(tmp_path, ["chain.h5"])
        remove(tmp_path, ["chain.h5"])
        assert not list(tmp_path.iterdir())
