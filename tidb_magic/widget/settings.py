"""The settings of %config TidbMagics that the table uses."""

from dataclasses import dataclass


@dataclass
class TableSettings:
    """`deadline`, `timeout` and `interval` (of a live table) are seconds."""

    deadline: float
    max_victims: int
    timeout: float
    interval: float
