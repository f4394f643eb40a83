"""What several commands share: the action, observables and common options, and checks before any work is done."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmmc.core.errors import DmmcError, FileError
from dmmc.core.files import check_place, replaceable

if TYPE_CHECKING:  # modules that are slow to import, which not every command needs
    from dmmc.runs.run import StoredRun
    from dmmc.runs.summary_records import RunSummary


def add_action(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Options that give the action."""
    group = parser.add_argument_group("action", f"phi^4 in one of its forms, another theory, or one of your own{note}")
    group.add_argument("--kappa", type=float, metavar="X", help="hopping parameter (with --lam)")
    group.add_argument("--lam", type=float, metavar="X", help="quartic coupling of the hopping form")
    group.add_argument("--m2", type=float, metavar="X", help="squared bare mass of the mass form (with --lam-mass)")
    group.add_argument("--lam-mass", type=float, metavar="X", help="quartic coupling of the mass form")
    group.add_argument("--free-mass", type=float, metavar="X", help="mass of a free field")
    group.add_argument(
        "--action", metavar="NAME|MODULE:OBJECT",
        help="an action that comes with dmmc, by its name, such as sine_gordon, with its parameters in --set; or one "
        "of your own, such as dmmc.action makes, or a function of NumPy arrays (n, *lattice) -> (n,)",
    )  # fmt: skip
    group.add_argument(
        "--set", nargs="+", action="extend", metavar="NAME=X",
        help="parameters of an action that comes with dmmc, such as m2=0.1 alpha=0.2 beta=3.5 of sine_gordon",
    )  # fmt: skip
    group.add_argument(
        "--h", type=float, metavar="X",
        help="external field, which any of these actions may have: S - h sum_x phi(x), with phi as the action takes it",
    )  # fmt: skip


def action_of(args: argparse.Namespace, dim: int) -> Any:
    """The action that the options ask for; None if none of them is given.

    Raises:
        DmmcError: if they give it in two forms, or incompletely, or an action of one's own cannot be loaded.
    """
    action = _without_field(args, dim)
    if args.h is None:
        return action
    if action is None:
        raise DmmcError("--h puts an action into an external field, and none is given; give it too, as without --h")
    from dmmc.theory.external_field import ExternalField

    return ExternalField(action, args.h)


def _without_field(args: argparse.Namespace, dim: int) -> Any:
    """The action that the options ask for, before it is put into an external field; None if there is none."""
    from dmmc.theory.free_field import FreeField
    from dmmc.theory.phi4 import Phi4

    forms = {
        "--kappa --lam": (args.kappa, args.lam),
        "--m2 --lam-mass": (args.m2, args.lam_mass),
        "--free-mass": (args.free_mass,),
        "--action": (args.action,),
    }
    given = {name: values for name, values in forms.items() if any(v is not None for v in values)}
    if len(given) > 1:
        raise DmmcError(f"give the action in one form, not as {' and '.join(given)}")
    if args.set is not None and "--action" not in given:
        raise DmmcError("--set gives the parameters of an action that comes with dmmc; name it with --action")
    if not given:
        return None
    ((name, values),) = given.items()
    if any(v is None for v in values):
        raise DmmcError(f"the action needs all of {name}")
    if name == "--action":
        return _own_action(args.action, args.set) if ":" in args.action else _named_action(args.action, args.set or [])
    if name == "--kappa --lam":
        return Phi4(args.kappa, args.lam)
    return Phi4.from_mass(args.m2, args.lam_mass, dim) if name == "--m2 --lam-mass" else FreeField(args.free_mass)


def _named_action(name: str, settings: Sequence[str]) -> Any:
    """The action that comes with dmmc under this name, with parameters of the form ``NAME=X``.

    Raises:
        DmmcError: if there is none, or a parameter is unknown, missing, given twice or no number.
    """
    from dmmc.theory.registry import BUILT_IN, registered

    # Another action is no number.
    names = [known for known in sorted(BUILT_IN) if known != "external_field"]
    if name not in names:
        raise DmmcError(
            f"an action is given as module:name, got {name!r}; those that come with dmmc are {', '.join(names)}"
        )
    make = registered(name)
    assert make is not None
    takes = inspect.signature(make).parameters
    values: dict[str, float] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise DmmcError(f"--set is given as NAME=X, got {setting!r}")
        if key not in takes:
            raise DmmcError(f"{name} has no parameter {key!r}; it takes {', '.join(takes)}")
        if key in values:
            raise DmmcError(f"--set gives {key} twice; give it once")
        try:
            values[key] = float(text)
        except ValueError:
            raise DmmcError(f"--set {key} must be a number, got {text!r}") from None
    missing = [key for key, one in takes.items() if key not in values and one.default is one.empty]
    if missing:
        raise DmmcError(f"{name} needs {', '.join(missing)}; give them with --set, such as --set {missing[0]}=0.1")
    return make(**values)


def _own_action(text: str, settings: Sequence[str] | None) -> Any:
    """The action that ``module:object`` names; of a function, one without a gradient is made.

    Raises:
        DmmcError: if it cannot be loaded, or is no action, or is given parameters.
    """
    from dmmc.theory.own_action import action

    if settings is not None:
        raise DmmcError(
            f"--set gives the parameters of an action that comes with dmmc, and {text} has its own; omit it"
        )
    loaded = load_object(text, "an action")
    if isinstance(loaded, type) or not callable(loaded):
        is_what = "a class" if isinstance(loaded, type) else f"of the type {type(loaded).__name__}"
        raise DmmcError(f"--action {text} is {is_what}; name an action, such as dmmc.action makes, or a function")
    return loaded if callable(getattr(loaded, "describe", None)) else action(loaded)


def add_observables(parser: argparse.ArgumentParser) -> None:
    """The option that adds observables of one's own."""
    parser.add_argument(
        "--observable", action="append", default=[], metavar="NAME=MODULE:FUNCTION",
        help="record this observable too: a function of the fields (n, *lattice) and their actions (n,) that returns "
        "(n, ...); may be given several times",
    )  # fmt: skip


def observables_of(args: argparse.Namespace) -> dict[str, Any]:
    """The observables that the options ask for, by name.

    Raises:
        DmmcError: if one of them cannot be loaded, or two have the same name.
    """
    observables: dict[str, Any] = {}
    for name, function in _named(args.observable, "--observable", "observable"):
        if name in observables:
            raise DmmcError(f"two observables are called {name!r}; give each of them a name of its own")
        observables[name] = _in_one_line(name, function)
    return observables


def add_derived(parser: argparse.ArgumentParser) -> None:
    """The option that adds functions of means."""
    parser.add_argument(
        "--derived", action="append", default=[], metavar="NAME=MODULE:FUNCTION",
        help="show this function of means too, such as a ratio: it gets the means by name and returns one number; may "
        "be given several times",
    )  # fmt: skip


def derived_of(args: argparse.Namespace) -> dict[str, Any]:
    """The functions of means that the options ask for, by name.

    Raises:
        DmmcError: if one of them cannot be loaded, or two have the same name; or, where the command says what it will
            record, as :func:`dmmc.diagnostics.means.check_functions`.
    """
    derived: dict[str, Any] = {}
    for name, function in _named(args.derived, "--derived", "derived observable"):
        if name in derived:
            raise DmmcError(f"two derived observables are called {name!r}; give each of them a name of its own")
        derived[name] = function
    if derived and "observable" in args:
        from dmmc.diagnostics.means import check_functions
        from dmmc.theory.observables import STANDARD

        check_functions(derived, (*STANDARD, *(text.partition("=")[0] for text in args.observable)))
    return derived


def _named(texts: Sequence[str], option: str, what: str) -> Iterator[tuple[str, Any]]:
    """The objects of options of the form ``NAME=MODULE:FUNCTION``, with their names."""
    for text in texts:
        name, equals, place = text.partition("=")
        if not equals:
            raise DmmcError(f"{option} is given as NAME=MODULE:FUNCTION, got {text!r}")
        yield name, load_object(place, f"{'an' if what[0] in 'aeiou' else 'a'} {what}")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """The option that lets model files name networks of other codes."""
    parser.add_argument(
        "--trust", action="append", default=[], metavar="MODULE:CLASS",
        help="import this class of torch modules, such as a registered network of your own, and let model files make "
        "networks of it; may be given several times",
    )  # fmt: skip


def trust(args: argparse.Namespace) -> None:
    """Import the classes that the options name, and let model files name them.

    Raises:
        DmmcError: if one cannot be loaded, or is not a class of torch modules.
    """
    for text in args.trust:
        from dmmc.model.foreign import trust_network

        trust_network(load_object(text, "a network"))


def load_object(text: str, what: str) -> Any:
    """The Python object that ``module:name`` names; modules are looked for in the working directory too.

    Raises:
        DmmcError: if there is no such module, it cannot be imported, or it has no such object.
    """
    module, _, name = text.partition(":")
    if not module or not name:
        raise DmmcError(f"{what} is given as module:name, got {text!r}")
    here = str(Path.cwd())
    if here not in sys.path:  # python -m puts it there, and an installed command its own directory instead
        sys.path.insert(0, here)
    try:
        loaded: Any = importlib.import_module(module)
        for part in name.split("."):
            loaded = getattr(loaded, part)
    except Exception as error:  # whatever the module of a user raises
        raise DmmcError(f"{what} {text!r} cannot be loaded [{_reason(error)}]; put that right") from None
    return loaded


def _in_one_line(name: str, observable: Any) -> Any:
    """An observable whose failure is an error of one line, which says where it happened."""
    if not callable(observable):
        raise DmmcError(f"the observable {name!r} must be a function, and is a {type(observable).__name__}")

    def observed(phi: Any, S: Any) -> Any:
        try:
            return observable(phi, S)
        except Exception as error:  # whatever the function of a user raises
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise DmmcError(
                f"the observable {name!r} fails at {last.filename}:{last.lineno} [{_reason(error)}]; put that right"
            ) from None

    return observed


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def steps(text: str) -> Any:
    """A number of steps, or ``auto``."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number of steps or auto is expected, not {text!r}") from None


def print_summary(run: StoredRun, reference: Path | None = None) -> RunSummary:
    """Print the summary of a finished run, with the table beside its reference if that is a run, and return it."""
    from dmmc.runs.summary import summarise
    from dmmc.studies.comparison import beside_reference

    summary = summarise(run)
    table = "" if reference is None else beside_reference(run, reference)
    print(f"{table}\n\n{summary}" if table else summary)
    return summary


EXTENDS = "go on with interrupted work, or extend a finished chain; where nothing was saved, begin afresh"
GOES_ON = "go on with an interrupted training; where nothing was saved, begin afresh"
ANALYSES = "go on with interrupted work, or analyse what is finished again; where nothing was saved, begin afresh"
"""What ``--resume`` does, by the kind of command."""


def add_common(
    parser: argparse.ArgumentParser,
    out: str | None = None,
    resume: str | None = None,
    threads: str = "one for each core that may be used",
) -> None:
    """The options of all commands that compute something.

    Args:
        parser: where the options go.
        out: default of ``--out``; None makes the option a required one.
        resume: what ``--resume`` does; None for a command that cannot go on with interrupted work.
        threads: how many CPU threads there are by default, in words.
    """
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of all random numbers")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda")
    parser.add_argument("--threads", type=int, metavar="N", help=f"CPU threads; by default {threads}")
    parser.add_argument(
        "--out", type=Path, required=out is None, default=out, metavar="PATH", help="where the result goes"
    )
    add_json(parser)
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--overwrite", action="store_true", help="replace an earlier result")
    if resume is not None:
        earlier.add_argument("--resume", action="store_true", help=resume)


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that asks for a summary."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a machine-readable summary to this file")


def check_json(args: argparse.Namespace) -> None:
    """Refuse a summary file that cannot be written, or would replace anything but an earlier summary.

    Raises:
        FileError: if it is one.
    """
    path = args.json
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise FileError(f"--json {path}: there is no directory {path.parent}; make it first")
    replaceable(path)
    if "out" in args and path.absolute() == args.out.absolute():
        raise FileError(f"--json {path} is the --out of this command too; choose another --json")
    check_place(path)
    if not path.exists():
        return
    if not (args.overwrite or getattr(args, "resume", False)):
        raise FileError(f"--json {path} exists; choose another --json, or pass --overwrite")
    if not _is_summary(path):
        raise FileError(f"--json {path} exists and is not an earlier summary; choose another --json")


def _is_summary(path: Path) -> bool:
    """Whether a file holds a JSON object, and neither the plan nor the result of a study, which say what they are."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and not {"format", "kind"} & content.keys()


def check_draws(draws: int) -> None:
    """Refuse chains that are too short for errors to be estimated.

    Raises:
        DmmcError: if they are.
    """
    from dmmc.diagnostics.series import MIN_DRAWS

    if draws < MIN_DRAWS:
        raise DmmcError(f"--draws must be at least {MIN_DRAWS}, for errors to be estimated; got {draws}")


def device_of(args: argparse.Namespace) -> str:
    """The device, if it can be used.

    Raises:
        DmmcError: if it cannot.
    """
    import torch

    try:
        device = torch.device(args.device)
        # All that is needed of a device: memory that can be read, and double precision.
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DmmcError(f"--device {args.device} cannot be used here ({reason}); use cpu") from None
    return str(args.device)
