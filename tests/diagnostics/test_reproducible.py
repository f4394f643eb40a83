"""The same series gives the same bits, however it lies in memory and with any number of threads."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dmmc import diagnostics
from dmmc.diagnostics.acceptance import rejection_time
from dmmc.diagnostics.correlator import wall_correlator
from dmmc.diagnostics.energy import mean_exp_minus


def binder(m4, m2):
    return 1 - m4 / (3 * m2 * m2)


def weights_of(log_w):
    functions = (
        diagnostics.ess_fraction, diagnostics.std_log_w, diagnostics.expected_acceptance, diagnostics.log_z,
        diagnostics.largest_weight_share, diagnostics.pareto_k, rejection_time,
    )  # fmt: skip
    return [function(log_w) for function in functions]


DIAGNOSTICS = {
    "Gamma method": lambda x: diagnostics.gamma_method(x["M"]),
    "tail": lambda x: diagnostics.gamma_method(x["M"], tau_exp=5.0),
    "rho": lambda x: diagnostics.autocorrelation_function(x["M"], 20),
    "derived": lambda x: diagnostics.gamma_derived(binder, [x["M4"], x["M2"]]),
    "summary": lambda x: diagnostics.summary(x, 16, 0.5),
    "jackknife": lambda x: diagnostics.jackknife(binder, [x["M4"], x["M2"]]),
    "blocking": lambda x: diagnostics.blocking(x["M2"]),
    "convergence": lambda x: (diagnostics.convergence_summary(x["M"]), diagnostics.rhat(x["M"], "split")),
    "acceptance": lambda x: (diagnostics.acceptance_by_chain(x["accepted"]), diagnostics.tau_rejections(x["accepted"])),
    "runs": lambda x: diagnostics.rejection_runs(x["accepted"], x["log_w"]),
    "weights": lambda x: weights_of(x["log_w"]),
    "KL": lambda x: (diagnostics.kl_gap(x["log_w"], -x["log_w"]), diagnostics.unreached(x["log_w"], -x["log_w"])),
    "log Z": lambda x: diagnostics.log_z_estimates(x["log_w"], x["M"]),
    "balance": lambda x: (diagnostics.z2_balance(x["M"]), diagnostics.mode_balance(x["M"], x["M2"])),
    "walls": lambda x: wall_correlator(x["two_point"], [0, 1, 2, 1], mean=x["M"], volume=16),
    "energy": lambda x: mean_exp_minus(x["M"]),
    "verdicts": lambda x: diagnostics.judge(x["accepted"], x["log_w"], x["log_w"], x, bias_bound=1e-3),
}


def chains(n, draws):
    rng = np.random.default_rng(1)
    M = np.lib.stride_tricks.sliding_window_view(rng.normal(size=(n, draws + 5)), 6, axis=1).mean(axis=2)
    record = {"M": M, "abs_M": abs(M), "M2": M**2, "M4": M**4, "phi2": M**2 + 1, "S_per_site": M - M**2}
    return record | {
        "two_point": rng.exponential(1, (n, draws, 3)),
        "accepted": rng.random((n, draws)) < 0.7,
        "log_w": rng.normal(0, 0.5, (n, draws)),
    }


def at(offset):
    """Copies that begin ``offset`` bytes beyond a multiple of 64."""

    def copied(x):
        buffer = np.empty(x.nbytes + 128, np.uint8)
        start = -buffer.ctypes.data % 64 + offset
        there = buffer[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
        there[...] = x
        return there

    return copied


def without_a_beginning(x):
    longer = np.concatenate([x[:, :37], x], axis=1)
    return longer[:, 37:]


LAYOUTS = {
    **{f"{offset} bytes": at(offset) for offset in (*range(8, 57, 8), 4)},
    "draw by draw": lambda x: np.asarray(x.swapaxes(0, 1), order="C").swapaxes(0, 1),
    "Fortran order": np.asfortranarray,
    "first draws discarded": without_a_beginning,
    "one of several components": lambda x: np.stack([x, x, x], axis=-1)[..., 1],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder(">")),
}


def bits(x):
    if dataclasses.is_dataclass(x):
        return tuple(bits(getattr(x, field.name)) for field in dataclasses.fields(x))
    if isinstance(x, dict):
        return tuple((key, bits(value)) for key, value in x.items())
    if isinstance(x, (tuple, list)):
        return tuple(map(bits, x))
    return x if x is None or isinstance(x, str) else np.asarray(x).tobytes()


@pytest.mark.parametrize("name", DIAGNOSTICS)
@pytest.mark.filterwarnings("ignore::dmmc.diagnostics.DiagnosticsWarning")
def test_the_layout_in_memory_does_not_matter(name):
    # 3 chains are summed in another order draw by draw than chain by chain, and 501 draws do not fill vectors.
    record = chains(3, 501)
    expected = bits(DIAGNOSTICS[name](record))
    different = [
        layout
        for layout, arrange in LAYOUTS.items()
        if bits(DIAGNOSTICS[name]({key: arrange(x) for key, x in record.items()})) != expected
    ]
    assert not different


THREADS = """
import sys, warnings
sys.path.insert(0, {folder!r})
warnings.simplefilter("ignore")
from test_reproducible import DIAGNOSTICS, bits, chains
record = chains(16, 1001)
for name, diagnostic in DIAGNOSTICS.items():
    print(name, hash(repr(bits(diagnostic(record)))))
"""


def test_the_number_of_threads_does_not_matter():
    # A BLAS divides products of more than 10,000 numbers among its threads.
    def begun(threads):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": "0"}
        code = THREADS.format(folder=str(Path(__file__).parent))
        return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)

    one, two = (process.communicate()[0].splitlines() for process in [begun("1"), begun("2")])
    assert len(one) == len(DIAGNOSTICS) and one == two
