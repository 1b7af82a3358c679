"""Multi-session foundation models for neural population recordings.

One shared trunk, one small adapter per session, trained jointly under masked modeling and contrastive alignment.
Importing this package is cheap; torch is imported by the modules that need it.
"""

__version__ = "0.1.0"
