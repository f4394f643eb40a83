"""The denoising exhibit: what it measures is the physics that it speaks of, and its parts are kept."""

import math

import numpy as np
import pytest
import torch

from dmmc.gallery import denoising, models
from dmmc.gallery.denoising import LABELS, PHASES, SHOWN, TIMES, TRUTH
from dmmc.gallery.kept import kept_arrays


def moments(shown, phase, label, name):
    return np.array([x[name][0] for x in shown.numbers[phase]["moments"][label]])


def test_the_truth_has_the_noise_of_each_time(quick_gallery):
    shown = quick_gallery("denoising")
    for phase in PHASES:
        noise = np.array(shown.numbers[phase]["noise"])
        assert noise[-1] == 0 and (np.diff(noise) < 0).all()
        found = moments(shown, phase, TRUTH, "phi2") - noise**2
        # <phi_s^2> = <phi_0^2> + s^2; 512 fields of 64 sites give the noise part to 1.41 / sqrt(512 * 64).
        error = noise**2 * math.sqrt(2 / (512 * 64)) + 2 * noise * np.sqrt(found[-1] / (512 * 64))
        assert (abs(found - found[-1]) <= 5 * error + 1e-12).all()


def test_order_grows_in_the_broken_phase_only(quick_gallery):
    shown = quick_gallery("denoising")
    random = math.sqrt(2 / (math.pi * 64))
    for label in (TRUTH, *LABELS.values()):
        broken, symmetric = (moments(shown, phase, label, "order") for phase in ("broken", "symmetric"))
        assert broken[0] < 2 * random and symmetric[-1] < 3 * random
        assert broken[-1] > 0.6 > broken[2], label
    assert moments(shown, "broken", TRUTH, "order")[-1] == 1


def test_both_processes_begin_alike_and_their_fields_are_kept(quick_gallery):
    quick_gallery("denoising")
    request = quick_gallery.request("denoising")
    model = models.unet("broken", request)
    assert model.action == {} and not hasattr(model.network, "with_trace")
    sde, ode = (denoising.generated(model, "broken", kind, request) for kind in ("sde", "ode"))
    assert np.array_equal(sde["shown"][:, 0], ode["shown"][:, 0])
    assert not np.allclose(sde["shown"][:, -1], ode["shown"][:, -1])
    assert sde["shown"].shape == (2, len(SHOWN), 8, 8) and sde["M"].shape == (32, len(TIMES))
    # What is shown is among what is measured.
    places = [TIMES.index(time) for time in SHOWN]
    np.testing.assert_allclose(sde["shown"].mean((-2, -1)), sde["M"][::16][:, places], atol=1e-12)


def test_the_expected_field_is_the_field_where_there_is_no_noise(quick_gallery):
    quick_gallery("denoising")
    model = models.unet("symmetric", quick_gallery.request("denoising"))
    fields = torch.randn(len(SHOWN), 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy()
    expected = denoising.expected_fields(model, fields)
    assert np.array_equal(expected[-1], fields[-1])
    assert not np.allclose(expected[0], fields[0], atol=0.1)


def test_kept_arrays_go_on_after_an_interruption(tmp_path):
    calls = []

    def make(k):
        calls.append(k)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"x": np.full((2, 3), k)}

    path = tmp_path / "x.npz"
    with pytest.raises(KeyboardInterrupt):
        kept_arrays(path, 4, make)
    found = kept_arrays(path, 4, make)
    assert calls == [0, 1, 2, 2, 3] and list(found) == ["x"]
    assert found["x"][:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.array_equal(kept_arrays(path, 4, make)["x"], found["x"]) and len(calls) == 5
