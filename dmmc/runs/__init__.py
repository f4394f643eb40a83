"""Chains on disk: running, storing and reading them."""
