"""Results for people: figures, the comparison table, and pages about runs and studies.

Nothing here knows the name of a kernel or the kinds of studies: a run says in its header what there is to know about
its kernel, and a study brings a :class:`~dmmc.pages.section.Section` of its own.
"""
