"""stub"""

from dataclasses import dataclass


@dataclass
class FinetuneConfig:
    """x"""

    x: int = 0
