"""The examples with networks of other codes run, as small as they can be."""

import importlib.util
import sys
from pathlib import Path

import pytest

import dmmc
from dmmc.kernels.of_model import KernelOptions

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name, folder, *options):
    """Run an example in this process, and return its module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        patch.setattr(module, "LATTICE", dmmc.Lattice((4, 4)))
        patch.setattr(sys, "argv", [name, "--out", str(folder), *map(str, options)])
        make, sample = dmmc.make_ensemble, dmmc.sample
        patch.setattr(dmmc, "make_ensemble", lambda *a, **k: make(*a, **k, thermalise=20, trajectory=1.0))
        few = {"chains": 2, "discard": 0, "kernel": KernelOptions("path", path_steps=3)}
        patch.setattr(dmmc, "sample", lambda *a, **k: sample(*a, **k | few))
        module.main()
    return module


@pytest.mark.filterwarnings("ignore::dmmc.diagnostics.DiagnosticsWarning")
def test_own_unet(tmp_path, capsys):
    module = run_example("own_unet", tmp_path, "--minutes", 1e-4, "--draws", 10)
    dmmc.trust_network(module.UNet)
    model = dmmc.load_model(tmp_path / "unet.safetensors")
    assert model.reference.v_max == pytest.approx(module.SIGMA_MAX**2)
    assert dmmc.load_run(tmp_path / "unet.h5").header.facts.name == "path"
    assert "HMC" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::dmmc.diagnostics.DiagnosticsWarning")
def test_diffusers_unet(tmp_path):
    pytest.importorskip("diffusers")
    run_example("diffusers_unet", tmp_path, "--steps", 1, "--draws", 10)
    assert dmmc.load_run(tmp_path / "unet.h5").header.facts.name == "path"
