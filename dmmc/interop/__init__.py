"""Bridges to other packages and codes, each in a module of its own.

ArviZ, pyerrors and emcee; bijx, blackjax and normflow, whose actions and samplers go both ways; codes that decide by
``accrej(new, old)``, GPT among them.
"""
