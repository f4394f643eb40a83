"""Fields with a density: the probability flow and the paths of a model."""
