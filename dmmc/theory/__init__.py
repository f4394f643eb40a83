"""Theories: lattices, actions, their symmetries, observables, and ensembles that belong to an action."""
