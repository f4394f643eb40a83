"""Training a model on its own chain: in rounds, from a few configurations or from none, along a path of actions.

In a round the model proposes fields, they are weighed with the action that is to be learned, an exact chain of them is
a sample of that action, and the model is trained on it from the weights that it has. What begins with a poor model, of
a few configurations, becomes a better one. What begins with a free field, for which the untrained model is exact, is
carried along a path of actions to any theory (:mod:`dmmc.studies.rounds.annealing`).

A chain whose proposals are adapted while it runs is not exact. None of the chains of the rounds is a result: the model
is frozen before a chain of :func:`dmmc.studies.sampling.sample` begins, and says how it was trained.
"""

from dmmc.studies.rounds.options import RoundOptions
from dmmc.studies.rounds.run import train_rounds

__all__ = ["RoundOptions", "train_rounds"]
