"""What a scan makes of its results: power laws, crossings, figures and tables of made-up ones."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import format_value
from dmmc.studies.scan import analysis
from dmmc.studies.scan import figures as scan_figures
from dmmc.studies.scan.options import ScanOptions
from dmmc.studies.scan.results import COSTED, TAUS, UNKNOWN, Measured, PointResult, ScanResult, TauInt
from dmmc.studies.scan.run import analyse
from dmmc.studies.scan.table import table


def made_up(sizes=(6, 8, 10, 14, 20), z=2.0, kappas=None, seed=1, scatter=0.03):
    """Results of HMC and cluster at ``xi = L / 4``, or at several kappa about a Binder crossing at 0.271."""
    r = np.random.default_rng(seed)

    def pair(value, relative):
        return Measured(value * (1 + relative * r.standard_normal()), relative * value)

    results = []
    for L in sizes:
        for kappa in kappas or [0.2]:
            for sampler, label, tau in (("hmc", "HMC", 2 * (L / 4) ** z), ("cluster", "cluster", 1.5)):
                x = L * (kappa - 0.271)
                U = 0.61 + 1.5 * x - 2 * x * x if kappas else 0.2
                taus = [pair(tau, scatter) for _ in TAUS]
                results.append(
                    PointResult(
                        point=f"{kappa}_L{L}",
                        line=f"L{L}" if kappas else "all",
                        lattice=(L, L),
                        action={"name": "phi4", "kappa": kappa, "lam": 0.022, "scale": 1.0},
                        sampler=sampler,
                        label=label,
                        file=f"{kappa}_L{L}/{sampler}.h5",
                        chains=64,
                        draws=512,
                        acceptance=pair(0.8, 0.01),
                        observables={"xi": pair(L / 4, 0.02), "binder": pair(U, 0.005)},
                        tau_int={name: TauInt(t.value, t.error, True) for name, t in zip(TAUS, taus, strict=True)},
                        cost={
                            name: {"seconds": pair(0.001 * tau, 0.1), "force": pair(20 * tau, 0.1)} for name in COSTED
                        },
                    )
                )
    return results


def with_xi(result, xi):
    return replace(result, observables=result.observables | {"xi": xi})


def with_tau(result, name, tau):
    return replace(result, tau_int=result.tau_int | {name: tau})


def summarised(results, along):
    return analyse((), ScanOptions(along=along, samplers=("hmc", "cluster")), results)


def fit_of(result, **place):
    (fit,) = [fit for fit in result.fits if all(getattr(fit, key) == value for key, value in place.items())]
    return fit


def test_power_laws_of_results():
    result = summarised(made_up(), "L")
    assert len(result.fits) == 2 * len(TAUS) * 2 and not result.notes
    for against in ("xi", "L"):
        for sampler, z in (("hmc", 2), ("cluster", 0)):
            for observable in TAUS:
                fit = fit_of(result, against=against, sampler=sampler, observable=observable)
                assert abs(fit.z - z) < 5 * fit.z_error < 0.6
                assert fit.dof == 3 and len(fit.points) == 5
    fit = fit_of(result, against="L", sampler="hmc", observable="M2")
    assert fit.c == pytest.approx(2 / 16, rel=0.5)
    assert fit.law(8.0) == pytest.approx(fit.c * 8.0**fit.z) and fit.law.error(8.0) < 0.1 * fit.law(8.0)


def test_two_points_are_fitted_and_remarked_on():
    result = summarised(made_up(sizes=(8, 16)), "L")
    assert all(fit.p_value is None and math.isnan(fit.law.p_value) for fit in result.fits)
    assert result.notes == ("a power law goes through any two points: without a third one nothing tests it",)
    assert ScanResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result


def test_lower_bounds_are_not_fitted():
    bound = TauInt(3.0, 0.1, False)
    results = [with_tau(one, "M2", bound) if (one.L, one.sampler) == (20, "hmc") else one for one in made_up()]
    result = summarised(results, "L")
    fit = fit_of(result, against="xi", sampler="hmc", observable="M2")
    assert "0.2_L20" not in fit.points and abs(fit.z - 2) < 5 * fit.z_error
    assert len(fit_of(result, against="xi", sampler="hmc", observable="abs_M").points) == 5
    figure = scan_figures.tau_int(result)
    assert any(line.get_markerfacecolor() == "white" for ax in figure.axes for line in ax.lines)
    fits, notes = analysis.power_laws([with_tau(one, "M2", bound) for one in results], "L")
    assert not [fit for fit in fits if fit.observable == "M2"]
    assert notes == tuple(
        f"no power law of M2 against {x}, {name}, all: fewer than two points have a measured tau_int and {x}"
        for name in ("HMC", "cluster")
        for x in ("xi", "L")
    )


def test_sizes_are_fitted_where_xi_is_not_known():
    fits, notes = analysis.power_laws([with_xi(one, UNKNOWN) for one in made_up()], "L")
    assert [(fit.sampler, fit.against) for fit in fits] == [(name, "L") for name in ("hmc", "cluster") for _ in TAUS]
    assert len(notes) == 2 and all("against xi" in note for note in notes)


def test_xi_is_that_of_the_best_sampler():
    hmc, cluster = made_up(sizes=(8,))
    assert analysis.common_xi([hmc, cluster]) == {"0.2_L8": cluster.xi}
    cluster = with_xi(cluster, Measured.of(math.nan, math.nan))
    assert cluster.xi == UNKNOWN
    assert analysis.common_xi([hmc, cluster]) == {"0.2_L8": hmc.xi}
    assert analysis.common_xi([cluster]) == {}


def test_at_fixed_size_only_small_xi_is_fitted():
    results = made_up(sizes=(16,), kappas=[0.26, 0.262, 0.264, 0.266])
    lengths = np.repeat([1.0, 2.0, 3.0, 8.0], 2).tolist()
    results = [with_xi(one, Measured(xi, 0.01)) for one, xi in zip(results, lengths, strict=True)]
    fits, _ = analysis.power_laws(results, "kappa")
    assert {fit.against for fit in fits} == {"xi"}
    assert all(fit.points == ("0.26_L16", "0.262_L16", "0.264_L16") for fit in fits)


def test_crossings_of_results():
    kappas = [0.266, 0.269, 0.272, 0.275]
    crossings, notes = analysis.crossings(made_up((8, 16, 32), kappas=kappas), 1)
    assert [one.sampler for one in crossings] == ["hmc", "cluster"] and not notes
    for one in crossings:
        assert abs(one.best.kappa.value - 0.271) < 5 * one.best.kappa.error < 0.002
        assert one.best.sizes == (16, 32)
        assert one.curves[0](one.crossings[0].kappa.value) == pytest.approx(one.crossings[0].binder.value)
        assert one.drift.known and one.kappa_c.error >= one.best.kappa.error
    assert crossings == analysis.crossings(made_up((8, 16, 32), kappas=kappas), 1)[0]
    other = analysis.crossings(made_up((8, 16, 32), kappas=kappas), 2)[0]
    assert [one.best.kappa.error for one in other] != [one.best.kappa.error for one in crossings]
    assert analysis.crossings(made_up((8,), kappas=kappas), 1)[1] == tuple(
        f"no Binder crossing of {sampler}: that takes at least two sizes at the same two kappa"
        for sampler in ("HMC", "cluster")
    )
    _, notes = analysis.crossings(made_up((8, 16), kappas=[0.262, 0.265]), 1)
    assert all("take larger kappa" in note for note in notes) and len(notes) == 2


def test_results_survive_their_files():
    for along, kappas in (("L", None), ("kappa", [0.266, 0.269, 0.272, 0.275])):
        results = made_up((8, 16, 32), kappas=kappas)
        results[0] = with_xi(results[0], UNKNOWN)
        result = summarised(results, along)
        assert bool(result.crossings) == (along == "kappa")
        assert ScanResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result
        assert result.to_json()["version"] == ScanResult.VERSION


# Figures and tables


def test_figures_show_the_fits_and_the_crossing(tmp_path):
    result = summarised(made_up(), "L")
    drawn = scan_figures.draw(result)
    assert list(drawn) == ["tau_xi", "tau_L", "cost", "acceptance"]
    assert len(drawn["tau_xi"].axes) == len(TAUS)
    for ax, observable in zip(drawn["tau_xi"].axes, TAUS, strict=True):
        assert ax.get_xscale() == ax.get_yscale() == "log"
        for text, sampler, label in zip(
            ax.get_legend().get_texts(), ("hmc", "cluster"), ("HMC", "cluster"), strict=True
        ):
            fit = fit_of(result, against="xi", sampler=sampler, observable=observable)
            assert text.get_text() == f"{label}: z = {format_value(fit.z, fit.z_error)}"

    kappas = [0.266, 0.269, 0.272, 0.275]
    result = summarised(made_up((8, 16, 32), kappas=kappas), "kappa")
    drawn = scan_figures.draw(result)
    assert list(drawn) == ["tau_xi", "cost", "acceptance", "binder"]
    assert len(drawn["acceptance"].axes[0].get_legend().get_texts()) == 6
    for ax, crossed in zip(drawn["binder"].axes, result.crossings, strict=True):
        assert ax.get_title().endswith(f"= {crossed.kappa_c}")
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["L = 8", "L = 16", "L = 32"]
    drawn["binder"].savefig(tmp_path / "binder.svg")
    with pytest.raises(DmmcError, match="no crossing"):
        scan_figures.binder(replace(result, crossings=()))
    with pytest.raises(DmmcError, match="no results"):
        scan_figures.draw(replace(result, results=()))


def test_the_costs_of_m_and_m2_have_panels_of_their_own():
    figure = scan_figures.cost(summarised(made_up(), "L"))
    titles = [ax.get_title() for ax in figure.axes]
    assert sum("$M$" in title for title in titles) == sum("$M^2$" in title for title in titles) == 2


def test_costs_of_chains_that_are_too_short_are_drawn_as_bounds():
    bound = TauInt(3.0, 0.1, False)
    results = [with_tau(one, "M2", bound) if (one.L, one.sampler) == (20, "hmc") else one for one in made_up()]
    for ax in scan_figures.cost(summarised(results, "L")).axes:
        of_m2 = "M^2" in ax.get_title()
        bounds = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
        assert {x for line in bounds for x in line.get_xdata()} == ({20.0} if of_m2 else set())
        measured = next(one for one in ax.containers if one.get_label().startswith("HMC")).lines[0]
        assert (20.0 in measured.get_xdata()) is not of_m2


def test_table_of_crossings_and_missing_values():
    results = made_up((8, 16, 32), kappas=[0.266, 0.269, 0.272, 0.275])
    results[0] = with_xi(results[0], UNKNOWN)
    text = table(summarised(results, "kappa"))
    assert "crossing of the Binder cumulants, cluster" in text and "L = 16, 32: kappa = 0.27" in text
    assert text.splitlines()[2].split()[:6] == ["0.266_L8", "HMC", "64", "x", "512", "-"]
    assert "HMC: trajectories of length 1 of the hopping-form field" in text
    assert all(f"tau {symbol}" in text.splitlines()[0] for symbol in ("M", "M^2", "|M|", "S/V"))
