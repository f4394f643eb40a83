"""Chains on disk: running, storing, reading and summarising them."""
