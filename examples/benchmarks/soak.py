"""What dmmc does when it is killed, when its files are damaged, and when the disk is full. About half an hour.

    python examples/benchmarks/soak.py OUT            # everything, beside two busy processes
    python examples/benchmarks/soak.py OUT --quick    # a few trials of each kind, in under a minute

Three things are tried, each many times with random numbers:

* Chains and trainings are killed (SIGKILL) at random moments, often several times in a row, and then resumed. The
  result must be that of the uninterrupted work bit for bit, no block or checkpoint that was on disk may be done again,
  and nothing may be left over beside it.
* A byte of a run file, of a journal, of a model and of a checkpoint is changed, or the file is cut off. It must be
  refused with one line, or be read as exactly what it was.
* The disk becomes full at a random moment. The work must end with one line, and go on with ``--resume`` after room is
  made. As root this is a small file system in memory; elsewhere the operating system limits the size of files.

A traceback, a crash and a wait without end are faults, too. The table is printed, and written to ``OUT/soak.json``
after each part; with the same OUT and the same options, parts that are finished are not done again. The exit code is 1
if there are faults, whose details are in the file.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

import dmmc
from dmmc.cli.main import main as command_line
from dmmc.model.options import TrainingOptions
from dmmc.runs.chain import ChainOptions
from dmmc.runs.names import block_numbers, journal_of
from dmmc.studies.resumption import checkpoint_of
from dmmc.studies.training import train

PROCESSES = multiprocessing.get_context("fork")  # so that a trial does not begin with importing torch
LIMIT = 120.0
"""Seconds after which a trial counts as one that does not end."""

REFUSED = (1, 2)
"""Exit codes of a refusal and of a failing system, as the command line has them."""

TRACES = ("Traceback", "HDF5-DIAG", "core dumped")
"""Signs of an error that nobody has put into words."""

DRAWS, BLOCK = 160, 8
CHAIN = ["--draws", str(DRAWS), "--block", str(BLOCK), "--chains", "8", "--keep-every", "4", "--threads", "1"]
STEPS = 60
CONFIG = {"filters": 2, "hidden1": 4, "hidden2": 3}


@dataclass(frozen=True)
class Size:
    """How many trials there are.

    Attributes:
        kills: of chains and trainings together.
        flips, cuts: of each kind of file.
        full: of chains and trainings together.
    """

    kills: int = 200
    flips: int = 500
    cuts: int = 100
    full: int = 50


QUICK = Size(kills=9, flips=8, cuts=4, full=6)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (None if it was stopped at the limit), what it said and found, and when."""

    code: int | None
    said: str
    found: str | None
    seconds: float

    @property
    def done(self) -> bool:
        """Whether the work is done; a training that was killed after the very last step is not resumed."""
        return self.code == 0 or "is finished" in self.said

    @property
    def refused(self) -> bool:
        """Whether it ended with an error of one line, as it should."""
        return self.code in REFUSED and bool(self.said.strip()) and not any(sign in self.said for sign in TRACES)

    def __str__(self) -> str:
        return f"exit code {self.code}: {self.said[-1500:]}"


@dataclass
class Row:
    """A line of the table.

    Attributes:
        part, what: what was tried.
        trials: how often.
        refused: so many of them ended with an error of one line.
        same: so many ended with exactly the result that they should have.
        faults: what happened in the others.
    """

    part: str
    what: str
    trials: int = 0
    refused: int = 0
    same: int = 0
    faults: list[str] = field(default_factory=list)

    def count(self, fault: str, where: str) -> None:
        """Count a trial that should have a certain result."""
        self.trials += 1
        if fault:
            self.faults.append(f"{where}: {fault}")
        else:
            self.same += 1

    def judge(self, ended: Ended, expected: str, where: str) -> None:
        """Count a trial that should be refused, or have a certain result."""
        if ended.refused:
            self.trials += 1
            self.refused += 1
        else:
            self.count("" if ended.code == 0 and ended.found == expected else f"another result, {ended}", where)


@dataclass(frozen=True)
class Work:
    """A chain or a training that can be interrupted.

    Attributes:
        name: what it is.
        file: name of its result.
        do: ``do(path, resume)`` does it, or goes on with it, and returns an exit code.
        digest: of its result: equal if and only if two results are the same.
        saved: how much of the work on ``path`` is on disk, as long as it is unfinished.
        again: given the path of a result, and how much had been saved, how much was done again all the same.
    """

    name: str
    file: str
    do: Callable[[Path, bool], int]
    digest: Callable[[Path], str]
    saved: Callable[[Path], int]
    again: Callable[[Path, int], int]


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def hashed(*parts: object) -> str:
    """SHA-256 of JSON values and bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()


def run_digest(path: Path, everything: bool = False) -> str:
    """Digest of a run; on demand with its wall times and its identity, which differ from run to run."""
    run = dmmc.load_run(path)
    groups = (run.observables, run.stats, run.state, run.evaluation)
    arrays = [(name, array) for group in groups for name, array in sorted(group.items())]
    arrays += [("cfgs", run.cfgs()), ("cfg_index", run.cfg_index)]
    parts = [x for name, array in arrays for x in (name, array.dtype.str, list(array.shape), array.tobytes())]
    own = (run.run_id, run.n_blocks, run.record.to_json(), run.versions) if everything else ()
    return hashed(run.header.to_json(), *parts, *own)


def model_digest(path: Path, everything: bool = False) -> str:
    """Digest of a model: its fingerprint; on demand with its history, whose wall times differ from run to run."""
    model = dmmc.load_model(path)
    own = (model.action, asdict(model.history), model.symmetry_evidence) if everything and model.history else ()
    return hashed(model.fingerprint(), *own)


def draws_saved(path: Path) -> int:
    """Draws of each chain that lie in the journal of an unfinished run."""
    return min(DRAWS, sum(map(ChainOptions(DRAWS, block=BLOCK).block_length, block_numbers(journal_of(path)))))


def draws_again(path: Path, saved: int) -> int:
    """Draws that the process made which finished a run, beyond those that were missing."""
    return max(0, dmmc.load_run(path).record.wall_draws - (DRAWS - saved))


def chain_of(words: list[str]) -> Work:
    """The chain of a command."""

    def do(path: Path, resume: bool) -> int:
        return command_line([*words, *CHAIN, "--out", str(path), *(["--resume"] if resume else [])])

    return Work(words[0], "run.h5", do, run_digest, draws_saved, draws_again)


def training_on(ensemble: Path) -> Work:
    """A training that keeps a checkpoint after each step."""
    options = TrainingOptions(steps=STEPS, levels=8, trajectories=4, checkpoint_seconds=0.0, seed=1)

    def do(path: Path, resume: bool) -> int:
        train(ensemble, path, options, config=CONFIG, resume=resume)
        return 0

    def saved(path: Path) -> int:
        return int(checkpoint_of(path).exists())

    return Work("train", "model", do, model_digest, saved, lambda path, saved: 0)


def in_process(work: Callable[[], object], folder: Path, kill_after: float | None = None) -> Ended:
    """Do something in a process of its own, which may be killed after some seconds.

    Args:
        work: returns an exit code, or a text, which is then what was found.
        folder: where the process leaves what it says and finds; not on a disk that is full.
        kill_after: seconds after which it is killed; None for never.
    """
    said, found = folder / "said.txt", folder / "found.txt"
    found.unlink(missing_ok=True)

    def child() -> None:
        with said.open("w") as stream:
            for number in (1, 2):
                os.dup2(stream.fileno(), number)
        code: object = 3
        try:
            code = work()
        except (dmmc.DmmcError, OSError) as error:  # as the command line does it
            code = REFUSED[isinstance(error, dmmc.DmmcError)]
            print(error, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        if isinstance(code, str):
            found.write_text(code)
            code = 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(str(code)))

    process = PROCESSES.Process(target=child)
    start = time.monotonic()
    process.start()
    process.join(LIMIT if kill_after is None else kill_after)
    late = process.is_alive()
    if late:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    code = None if late and kill_after is None else process.exitcode
    content = found.read_text() if found.exists() else None
    return Ended(code, said.read_text(errors="replace"), content, time.monotonic() - start)


def finish(work: Work, path: Path, folder: Path, expected: str) -> str:
    """Resume a work, and compare its result with that of the uninterrupted one.

    Returns:
        what is wrong; nothing if all is well.
    """
    saved = 0 if path.exists() else work.saved(path)
    ended = in_process(lambda: work.do(path, True), folder)
    if not ended.done:
        return f"it cannot be resumed: {ended}"
    if saved and "going on with" not in ended.said:
        return f"what was saved was not used: {ended}"
    checked = in_process(lambda: work.digest(path), folder)
    if checked.found != expected:
        return f"another result: {checked}"
    left = sorted(entry.name for entry in path.parent.iterdir() if entry != path)
    again = work.again(path, saved)
    return f"left over: {left}" if left else f"{again} of {saved} draws were made again" if again else ""


def kills(work: Work, number: int, rng: random.Random, folder: Path) -> Row:
    """Kill a work at random moments, up to three times in a row, until there were as many kills; resume each."""
    row = Row(f"killed {number} times and resumed", work.name)
    expected, seconds = uninterrupted(work, folder)
    done = 0
    while done < number:
        place = fresh(folder / "place")
        path, moments = place / work.file, []
        for _ in range(min(rng.choice((1, 1, 2, 3)), number - done)):
            moment = rng.uniform(0, 1.1 * seconds)
            ended = in_process(lambda path=path, again=bool(moments): work.do(path, again), folder, moment)
            if ended.code != -signal.SIGKILL:  # the moment came too late
                if not ended.done:
                    row.faults.append(f"going on after kills at {moments}: {ended}")
                elif not moments:  # how long it takes depends on what else the machine does
                    seconds = (seconds + ended.seconds) / 2
                break
            moments.append(round(moment, 4))
        done += len(moments)
        if moments:
            row.count(finish(work, path, folder, expected), f"killed after {moments} seconds")
    return row


def uninterrupted(work: Work, folder: Path) -> tuple[str, float]:
    """Digest of the result, and how long it takes."""
    path = fresh(folder / "place") / work.file
    ended = in_process(lambda: work.do(path, False), folder)
    if ended.code != 0:
        raise SystemExit(f"{work.name} fails without any interruption: {ended}")
    return work.digest(path), ended.seconds


def damage(
    what: str, original: Path, read: Callable[[Path], str | int], size: Size, rng: random.Random, folder: Path
) -> list[Row]:
    """Change single bytes of a file, or of one of the files of a folder, and cut it off."""
    copies = fresh(folder / "copies")
    restore = partial(shutil.copytree if original.is_dir() else shutil.copy2, original, copies / original.name)
    restore()
    expected = in_process(lambda: read(copies / original.name), folder)
    if expected.found is None:
        raise SystemExit(f"the undamaged {what} cannot be read: {expected}")
    parts = sorted(original.iterdir()) if original.is_dir() else [original]
    names = [path.relative_to(original) for path in parts if path.stat().st_size]
    rows = [Row("a byte changed", what), Row("cut off", what)]
    for row, number in zip(rows, (size.flips, size.cuts), strict=True):
        for _ in range(number):
            fresh(copies)
            restore()
            path = copies / original.name / rng.choice(names)
            content = bytearray(path.read_bytes())
            position = rng.randrange(len(content))
            if row is rows[0]:
                content[position] ^= rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))
            else:
                del content[position:]
            path.write_bytes(content)
            ended = in_process(lambda: read(copies / original.name), folder)
            row.judge(ended, expected.found, f"{path.name}, byte {position}")
    return rows


class Disk:
    """A folder in which the room is limited, as a context.

    As root it is a small file system in memory, of which a file takes all the room that is not left. Otherwise the
    operating system limits the size of each file that a process writes.
    """

    BYTES = 16 << 20

    def __init__(self, folder: Path) -> None:
        self.folder = fresh(folder)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.BYTES}", "tmpfs", str(folder)]
        may = os.geteuid() == 0 and shutil.which("mount") is not None
        self.mounted = may and not subprocess.run(command, capture_output=True, check=False).returncode

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)

    def limited(self, work: Callable[[], int], room: int) -> Callable[[], int]:
        """The work with so many bytes of room."""
        if self.mounted:
            with (self.folder / "ballast").open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(self.folder).free - room)
            return work

        def confined() -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            return work()

        return confined

    def make_room(self) -> None:
        """Take the limit away."""
        (self.folder / "ballast").unlink(missing_ok=True)


def full_disks(work: Work, number: int, rng: random.Random, folder: Path) -> Row:
    """Let the disk become full at a random moment of a work, until that happened so many times; resume each."""
    expected, _ = uninterrupted(work, folder)
    size = (folder / "place" / work.file).stat().st_size
    with Disk(folder / "disk") as disk:
        kind = "a small file system" if disk.mounted else "a limit of size"
        row = Row(f"disk full {number} times and resumed", f"{work.name} on {kind}")
        while row.trials < number and len(row.faults) < number:
            path = fresh(disk.folder / "place") / work.file
            room = rng.randrange(1 << 12, 2 * size)
            ended = in_process(disk.limited(lambda path=path: work.do(path, False), room), folder)
            disk.make_room()
            if ended.refused:
                row.refused += 1  # and resumed
                row.count(finish(work, path, folder, expected), f"{room} bytes of room")
            elif ended.code != 0:  # else there was room enough
                row.faults.append(f"{room} bytes of room: {ended}")
    return row


def unfinished(work: Work, rng: random.Random, folder: Path) -> Path:
    """Kill a work when a part of it is on disk, and return the path that its result would have had."""
    _, seconds = uninterrupted(work, folder)
    while True:
        path = fresh(folder / "begun") / work.file
        ended = in_process(lambda path=path: work.do(path, False), folder, rng.uniform(0.2, 1.0) * seconds)
        if ended.done:  # the machine is faster than it was when the work was timed
            seconds = ended.seconds
        elif work.saved(path) and not path.exists():
            return path


def spin() -> None:
    """Keep a core busy."""
    while True:
        pass


def prepare(folder: Path, seed: int) -> tuple[Work, Work, Work]:
    """An ensemble, a model, and the works that are made of them: a chain of each, and a training."""
    couplings = ["--kappa", "0.2", "--lam", "0.1", "--shape", "4", "4", "--trajectory", "1", "--thermalise", "30"]
    hmc = chain_of(["ensemble", *couplings, "--seed", str(seed)])
    ensemble, model = folder / "ensemble.h5", folder / "model.safetensors"
    training = training_on(ensemble)
    for work, path in ((hmc, ensemble), (training, model)):
        if not path.exists():
            ended = in_process(lambda work=work, path=path: work.do(path, False), folder)  # type: ignore[misc]
            if ended.code != 0:
                raise SystemExit(f"{path} cannot be made: {ended}")
    flow = chain_of(["sample", "--model", str(model), "--flow-steps", "2", "--discard", "4", "--seed", str(seed)])
    return hmc, flow, training


def resumed(work: Work, suffix: str) -> Callable[[Path], str | int]:
    """Reads unfinished work by finishing it; its name is that of the result with a suffix."""

    def read(path: Path) -> str | int:
        result = path.with_name(path.name.removesuffix(suffix))
        return work.do(result, True) or work.digest(result)

    return read


def soak(out: Path, size: Size, seed: int) -> list[Row]:
    """Do everything that is not done yet, save after each part, and return the table."""
    file = out / "soak.json"
    results: dict[str, Any] = {
        "seed": seed, "size": asdict(size), "dmmc": dmmc.__version__, "torch": torch.__version__,
        "python": platform.python_version(), "parts": {}, "seconds": {},
    }  # fmt: skip
    if file.exists():
        before = json.loads(file.read_text())
        if all(before[key] == results[key] for key in ("seed", "size", "dmmc", "torch")):
            results = before
    hmc, flow, training = prepare(out, seed)
    parts: dict[str, Callable[[random.Random], list[Row]]] = {}
    for k, work in enumerate((hmc, flow, training)):  # each gets a third of the trials
        n, m = len(range(k, size.kills, 3)), len(range(k, size.full, 3))
        parts[f"kill {work.name}"] = lambda rng, work=work, n=n: [kills(work, n, rng, out)]
        parts[f"fill the disk of {work.name}"] = lambda rng, work=work, m=m: [full_disks(work, m, rng, out)]
    files: dict[str, tuple[Callable[[random.Random], Path], Callable[[Path], str | int]]] = {
        "run file": (lambda rng: out / "ensemble.h5", partial(run_digest, everything=True)),
        "journal": (lambda rng: journal_of(unfinished(hmc, rng, out)), resumed(hmc, ".partial")),
        "model": (lambda rng: out / "model.safetensors", partial(model_digest, everything=True)),
        "checkpoint": (lambda rng: checkpoint_of(unfinished(training, rng, out)), resumed(training, ".checkpoint")),
    }
    for what, (made, read) in files.items():
        parts[f"damage a {what}"] = lambda rng, what=what, made=made, read=read: damage(
            what, made(rng), read, size, rng, out
        )
    rows: list[Row] = []
    for part, work_on in parts.items():
        start = time.monotonic()
        if part not in results["parts"]:
            results["parts"][part] = [asdict(row) for row in work_on(random.Random(f"{seed} {part}"))]
            results["seconds"][part] = time.monotonic() - start
            file.write_text(json.dumps(results, indent=2) + "\n")
        new = [Row(**row) for row in results["parts"][part]]
        show(new)
        rows += new
    return rows


def show(rows: list[Row]) -> None:
    """Print lines of the table."""
    for row in rows:
        what = f"{row.what}, {row.part}"
        print(f"{what:<58} {row.trials:>6} {row.refused:>8} {row.same:>6} {len(row.faults):>7}", flush=True)
        for fault in row.faults[:3]:
            print(f"    {fault.splitlines()[0]} ...", flush=True)


def main() -> None:
    """Try everything, and save after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--quick", action="store_true", help="a few trials of each kind")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the moments and places (default: 1)")
    parser.add_argument("--no-load", action="store_true", help="no busy processes beside it")
    args = parser.parse_args()
    size = QUICK if args.quick else Size()
    torch.set_num_threads(1)  # a process that has used several must not be forked
    # What the trials would otherwise import, each for itself.
    importlib.import_module("dmmc.cli.ensemble")
    importlib.import_module("dmmc.cli.sample")
    torch.optim.Adam([torch.zeros(1)])
    args.out.mkdir(parents=True, exist_ok=True)
    load = [PROCESSES.Process(target=spin, daemon=True) for _ in range(0 if args.no_load else 2)]
    for process in load:
        process.start()
    try:
        print(f"{'':<58} trials  refused   same  faults")
        rows = soak(args.out.resolve(), size, args.seed)
    finally:
        for process in load:
            process.terminate()
    faults = sum(len(row.faults) for row in rows)
    print(f"{faults or 'no'} faults; the details are in {args.out / 'soak.json'}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
