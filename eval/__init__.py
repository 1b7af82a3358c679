"""Scoring held-out animals: metrics, baselines, probes, tasks, report. Always `from eval.x import y`."""
