"""The flow of the interaction network in machine code, compiled by Numba: one pass over memory that stays in cache.

A tile is :data:`~dmmc.core.vectors.LANES` fields, of which the i-th number of all stands together, so that every
operation works on whole vectors of the machine whatever the lattice is, and no field can enter the numbers of another.
A tile is carried through all integration steps before the next one begins (:mod:`~dmmc.model.compiled.steps`). Fourier
coefficients are those of a real basis (:mod:`~dmmc.model.compiled.real_modes`), transforms are products with small
matrices (:mod:`~dmmc.model.compiled.fourier`), and the site-wise layers (:mod:`~dmmc.model.compiled.layers`) go over
the lattice plane by plane, with no more planes of the first layer in memory than a shell of neighbours reaches.
:mod:`~dmmc.model.compiled.flow` prepares what they need. The letters are those of :mod:`dmmc.model.interaction`.

Only the last module may be imported where Numba may be missing, and that when it is there.
"""
