"""Timings, each one command that prints one JSON line last; ratios are taken side by side in one run."""
