"""Results for people: :mod:`~dmmc.report.figures` and the comparison :mod:`~dmmc.report.table`."""
