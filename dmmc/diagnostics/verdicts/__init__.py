"""Verdicts: what the diagnostics say in words, each with the number that triggered it and what to do about it.

``bad`` means that results, or their errors, are wrong or may well be wrong; ``doubtful`` means that they are probably
right, but that something deserves a look first. The thresholds stand in :mod:`~dmmc.diagnostics.verdicts.thresholds`,
with their reasons.
"""

from dmmc.diagnostics.verdicts.judge import judge, judge_chain
from dmmc.diagnostics.verdicts.verdict import Level, Verdict, inexact

__all__ = ["Level", "Verdict", "inexact", "judge", "judge_chain"]
