"""The command line: finds the command, reads its options, runs it, and turns errors into one line each."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import keyword
import os
import sys
from collections.abc import Sequence
from typing import Any

from dmmc.cli.memory import keep_freed_memory
from dmmc.cli.streams import Stream, standard_streams
from dmmc.cli.summary import check_json
from dmmc.core.errors import DmmcError
from dmmc.core.files import replace_file
from dmmc.core.records import plain
from dmmc.core.version import VERSION

DESCRIPTION = """\
Exact sampling of lattice field theories with diffusion models.

A diffusion model with a tractable likelihood proposes whole field configurations; a Metropolis
step makes the chain exact. The usual way:

  dmmc ensemble --kappa 0.27 --lam 0.022 --shape 16 16 --out hmc.h5
  dmmc train    --ensemble hmc.h5 --minutes 5 --out model.safetensors
  dmmc sample   --model model.safetensors --out chain.h5

or all of it at once, with a comparison and figures: dmmc quickstart."""

EPILOG = "Errors in brackets are statistical and include autocorrelations; tau_int is 1/2 for uncorrelated draws."

COMMANDS = {
    "ensemble": "make an ensemble with HMC or embedded cluster updates",
    "train": "train a diffusion model on an ensemble",
    "sample": "run the exact Metropolis chain of a trained model",
    "scan": "compare samplers over lattice sizes or couplings: critical slowing down, costs, Binder crossing",
    "exactness": "compare ways to put a model into Metropolis, exact or not, with a known truth",
    "import": "make a run of configurations of another code, checked against their action",
    "export": "write the configurations of a run for another code",
    "report": "write one self-contained HTML page about runs, models and studies: verdicts, comparison, figures",
    "check-action": "test an action of your own: its gradient, symmetry, batches, times",
    "gallery": "make figures of the literature anew, and exact versions of them",
    "quickstart": "show the whole idea once: 16 x 16 near criticality, in about 2 minutes on 2 cores",
}
"""The commands and what they do; each is a module of this package with ``add_arguments`` and ``run``."""


def _module(command: str) -> Any:
    name = command.replace("-", "_")
    return importlib.import_module(f"dmmc.cli.{name}{'_' if keyword.iskeyword(name) else ''}")


class _Help(argparse.HelpFormatter):
    """Shows the defaults of options that have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is argparse.SUPPRESS or default in (None, False, [], ()):
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        return f"{action.help} (default: {shown.replace('%', '%%')})"


def _parser(wanted: str | None) -> argparse.ArgumentParser:
    """The parser. Only the wanted command gets its options, since they come from modules that are slow to import."""
    parser = argparse.ArgumentParser(
        prog="dmmc", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"dmmc {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        description = f"{text[0].upper()}{text[1:]}."
        command = commands.add_parser(name, help=text, description=description, formatter_class=_Help)
        if name == wanted:
            _module(name).add_arguments(command)
    return parser


def _set_threads(args: argparse.Namespace) -> None:
    """Use the threads that are asked for, or those of the run that is resumed, which is then the same bit for bit."""
    limit, threads = 4 * (os.cpu_count() or 1), getattr(args, "threads", None)
    if threads is not None and not 1 <= threads <= limit:
        raise DmmcError(f"--threads must lie between 1 and {limit} on this machine, got {threads}")
    if threads is None and getattr(args, "resume", False):
        from dmmc.studies.resumption import recorded_threads

        recorded = recorded_threads(args.out)
        if recorded is not None and recorded <= limit:
            threads = recorded
            print(f"with {threads} CPU threads, as before; --threads changes that", file=sys.stderr)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 if the system fails, 2 for refused input, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    output, errors = standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name that the terminal cannot show is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    args = _parser(next((word for word in words if word in COMMANDS), None)).parse_args(words)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        return _run(args, output)


def _run(args: argparse.Namespace, output: Stream) -> int:
    """Run a command, which prints to ``output``; returns the exit code."""
    try:
        check_json(args)
        _set_threads(args)
        keep_freed_memory()
        summary: Any = _module(args.command).run(args)
        if args.json is not None:
            text = json.dumps(plain(summary), indent=2, allow_nan=False) + "\n"
            replace_file(args.json, lambda path: path.write_text(text, encoding="utf-8"))
        return 0 if output.finish() else 1
    except DmmcError as error:
        print(f"dmmc {args.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        again = "go on with --resume" if "resume" in args else "run it again"
        print(f"dmmc {args.command}: {error}; put that right, then {again}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = "; go on with the same command"
        hint = f"{again} and --resume" if "resume" in args else again if "goes_on" in args else ""
        print(f"\ndmmc {args.command}: interrupted{hint}", file=sys.stderr)
        return 130
    finally:
        output.flush()
