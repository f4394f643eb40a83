"""A field on its way from noise to a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from dmmc.core.errors import DmmcError
from dmmc.pages.figures.canvas import make_panels
from dmmc.pages.styles import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def denoising(
    fields: ArrayLike, noise: ArrayLike, times: ArrayLike | None = None, scale: Literal["raw", "rms"] = "raw"
) -> Figure:
    """One field at several stages of denoising, one panel for each.

    All panels share one colour scale, symmetric about 0. On the raw scale one sees how large the noisy field is and how
    small the clean one; on the scale ``rms`` every field is divided by its own root mean square, so that one sees the
    structure of each. One dimension is drawn as a line; of three or four dimensions the plane through the origin that
    the last two axes span is shown.

    Args:
        fields: ``(n, *lattice)``, the field at each of ``n`` stages.
        noise: standard deviation s of the noise at each stage, ``(n,)``.
        times: time tau of each stage in the convention of Wang, Aarts and Zhou, JHEP 05 (2024) 060, where denoising
            begins at 0 and ends at 1, ``(n,)``; in terms of the level of
            :class:`dmmc.model.reference.GaussianReference` it is ``1 - level``. None leaves it out of the titles.
        scale: ``raw``, or ``rms``.

    Raises:
        DmmcError: on shapes that do not match, fields that are not finite, or an unknown scale.
    """
    phi, s = np.asarray(fields, dtype=np.float64), np.asarray(noise, dtype=np.float64)
    if phi.ndim < 2 or len(phi) == 0 or s.shape != phi.shape[:1]:
        raise DmmcError(f"fields must be (n, *lattice) and noise (n,), got {phi.shape} and {s.shape}")
    tau = None if times is None else np.asarray(times, dtype=np.float64)
    if tau is not None and tau.shape != s.shape:
        raise DmmcError(f"times must be (n,), one for each of the {len(s)} fields, got {tau.shape}")
    if not np.isfinite(phi).all():
        raise DmmcError("fields has NaN or infinite values; draw another one")
    if scale not in ("raw", "rms"):
        raise DmmcError(f"the scale must be raw or rms, got {scale!r}")
    n, dim = len(phi), phi.ndim - 1
    if scale == "rms":
        # A field that vanishes everywhere has no scale, and needs none.
        rms = np.sqrt(np.mean(phi**2, axis=tuple(range(1, dim + 1)), keepdims=True))
        phi = phi / np.where(rms > 0, rms, 1.0)
    while phi.ndim > 3:
        phi = phi[:, 0]
    label, limit = r"$\phi$ / rms", 3.0
    if scale == "raw":  # twice the size of the largest field: colours beyond that are saturated
        label = r"$\phi(x)$"
        limit = _round_up(2 * float(np.sqrt(np.mean(phi.reshape(n, -1) ** 2, axis=1)).max()))

    aspect = 0.9 if dim == 1 else min(max(phi.shape[1] / phi.shape[2], 0.5), 2.0)
    figure, axes = make_panels(max(1.75 * n + 0.9, 5.2), 1.65 * aspect + 0.6, columns=n, sharey=True)
    for k, (ax, field) in enumerate(zip(axes, phi, strict=True)):
        title = rf"$s = {s[k]:.3g}$"
        ax.set_title(title if tau is None else rf"$\tau = {tau[k]:.3g}$" + "\n" + title, fontsize=10)
        if dim == 1:
            ax.plot(field, color=COLOURS[0], linewidth=1)
            ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
            edge = max(limit, 1.05 * float(abs(phi).max()))
            ax.set(ylim=(-edge, edge), xlabel="x")
        else:
            image = ax.imshow(field, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    if dim == 1:
        axes[0].set_ylabel(label)
    else:
        bar = figure.colorbar(image, cax=axes[-1].inset_axes((1.08, 0, 0.07, 1)), label=label, extend="both")
        bar.set_ticks([-limit, 0, limit], labels=[f"{-limit:g}".replace("-", "−"), "0", f"{limit:g}"])
    return figure


def _round_up(x: float) -> float:
    """The next larger number of two digits, for the ends of an axis; 1 for zero."""
    if x == 0:
        return 1.0
    unit = 10.0 ** (np.floor(np.log10(x)) - 1)
    return float(f"{np.ceil(x / unit - 1e-9) * unit:.6g}")
