"""The parts that every layer uses: errors, numbers, random streams, linear algebra, records and files."""

from dmmc.core import forks as forks
