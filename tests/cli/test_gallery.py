"""``dmmc gallery``: what it lists, makes and refuses."""

import pytest

from commands import dmmc, summary
from dmmc.cli import gallery as command
from dmmc.gallery.exhibit import Exhibit, Findings


@pytest.fixture
def two(monkeypatch):
    """A gallery of two exhibits that are nothing but a sentence."""
    exhibits = {
        name: Exhibit(name, f"The {name}", "nobody", 0.5, lambda request: Findings((), "", (f"seed {request.seed}",)))
        for name in ("egg", "hen")
    }
    monkeypatch.setattr(command, "NAMES", tuple(exhibits))
    monkeypatch.setattr(command, "exhibit", exhibits.__getitem__)


def test_list(two, tmp_path, capsys):
    assert dmmc("gallery", "--list", "--out", tmp_path / "g") == 0
    assert capsys.readouterr().out.splitlines() == [
        "egg  0.5 min  The egg [nobody]",
        "hen  0.5 min  The hen [nobody]",
    ]
    assert not (tmp_path / "g").exists()


def test_all_are_made_and_found_again(two, tmp_path, capsys):
    out = tmp_path / "g"
    assert dmmc("gallery", "--all", "--quick", "--seed", 3, "--out", out, "--json", tmp_path / "all.json") == 0
    text = capsys.readouterr()
    assert f"look at {out}/egg/page.html" in text.out and f"look at {out}/hen/page.html" in text.out
    made = summary(tmp_path / "all.json")["exhibits"]
    assert [made[name]["findings"] for name in ("egg", "hen")] == [["seed 3"], ["seed 3"]]
    assert dmmc("gallery", "hen", "--quick", "--seed", 3, "--out", out) == 0
    text = capsys.readouterr()
    assert "seed 3" in text.out and "hen is finished" in text.err


def test_refusals(two, tmp_path, capsys):
    out = tmp_path / "g"
    assert dmmc("gallery", "--out", out) == 2
    assert "say which exhibit: egg, hen" in capsys.readouterr().err
    assert dmmc("gallery", "egg", "--seed", -1, "--out", out) == 2
    assert "the seed must be" in capsys.readouterr().err
    assert not out.exists()
    assert dmmc("gallery", "egg", "--out", out) == 0
    # All folders are looked at before the first exhibit is made.
    (out / "hen").write_text("a file")
    capsys.readouterr()
    assert dmmc("gallery", "--all", "--seed", 1, "--out", out) == 2
    assert "hen is a file" in capsys.readouterr().err
    assert dmmc("gallery", "egg", "--seed", 2, "--out", out) == 2
    assert "seed is 1 there and 2 here" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        dmmc("gallery", "egg", "--list")


def test_an_interrupted_exhibit_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    def interrupted(request):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "exhibit", lambda name: Exhibit(name, "A title", "nobody", 1, interrupted))
    assert dmmc("gallery", "egg", "--out", tmp_path / "g") == 130
    assert "interrupted; go on with the same command\n" in capsys.readouterr().err


def test_unknown_exhibit(tmp_path, capsys):
    assert dmmc("gallery", "mona-lisa", "--out", tmp_path / "g") == 2
    assert "there is no exhibit 'mona-lisa'" in capsys.readouterr().err
    assert not (tmp_path / "g").exists()
