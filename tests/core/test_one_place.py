"""Rules for calls of torch: random numbers and linear algebra have one place each, and devices are named."""

import ast
from pathlib import Path

import pytest
import torch

import dmmc

PACKAGE = Path(dmmc.__file__).parent

RANDOM = {
    "torch.bernoulli", "torch.multinomial", "torch.normal", "torch.poisson", "torch.rand", "torch.rand_like",
    "torch.randint", "torch.randint_like", "torch.randn", "torch.randn_like", "torch.randperm", ".bernoulli_",
    ".cauchy_", ".exponential_", ".geometric_", ".log_normal_", ".normal_", ".random_", ".uniform_",
}  # fmt: skip


def calls(source):
    """What a module calls: ``torch.name`` and ``torch.linalg.name``, and ``.name`` for a method of whatever object."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            text = ast.unparse(node.func)
            yield text if text.startswith("torch.") else f".{node.func.attr}"


DENSE = {
    *(f"torch.linalg.{name}" for name in dir(torch.linalg) if not name.startswith("_")),
    *(
        f"{where}.{name}"
        for where in ("torch", "")
        for name in (
            "cholesky", "cholesky_inverse", "cholesky_solve", "det", "geqrf", "inverse", "logdet", "lu", "lu_solve",
            "lu_unpack", "matrix_exp", "matrix_power", "ormqr", "pinverse", "qr", "slogdet", "svd", "triangular_solve",
        )
    ),
}  # fmt: skip

FACTORIES = {
    f"torch.{name}"
    for name in ("arange", "empty", "eye", "full", "linspace", "logspace", "ones", "scalar_tensor", "tensor", "zeros")
}


def test_tensors_are_made_on_a_device_that_is_named():
    # Else they would be on torch's default device, which a user may have set.
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in FACTORIES:
                assert "device" in {keyword.arg for keyword in node.keywords}, f"{path}, line {node.lineno}"


@pytest.mark.parametrize(("place", "names"), [("core/rng.py", RANDOM), ("core/linalg.py", DENSE)])
def test_nothing_else_calls(place, names):
    users = {path for path in PACKAGE.rglob("*.py") if names & set(calls(path.read_text()))}
    assert users == {PACKAGE / place}
