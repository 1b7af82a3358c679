"""Training curves of the report, read from the logs of a run and of the adaptations below it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from eval.report_figures import adaptation_curves, figure_html, training_curves

_NOT_TERMS = {"step", "split", "loss", "lr", "windows_per_s", "epoch", "elapsed_s", "grad_norm", "windows"}


def training_html(run: Path) -> str:
    """Curves of a run and of the adaptations below it; of an adaptation alone those of the run that it came from."""
    found = {_curve_name(path, run): path for path in sorted(run.rglob("*metrics.jsonl"))}
    if "." not in found and (log := pretrained_run(run) / "metrics.jsonl").exists():
        found["."] = log
    histories = {name: history for name, path in found.items() if len(history := _history(path))}
    if not histories:
        return "<p>There is no <code>metrics.jsonl</code> in the run folder, so there are no training curves.</p>"
    html = []
    if "." in histories:
        history = histories.pop(".")
        # Terms of one masking scheme ("spikes/units") are in the log; thirty curves would hide the main ones.
        terms = [c for c in map(str, history) if c not in _NOT_TERMS and "/" not in c]
        terms = [c for c in terms if _numbers(history, c).notna().any()]
        html.append(figure_html({"training": training_curves(history, terms)}, _training_note(history)))
    if histories:
        note = "Adaptation of each held-out animal, by track."
        html.append(figure_html({"adaptation": adaptation_curves(histories)}, note))
    return "".join(html)


def _curve_name(path: Path, run: Path) -> str:
    """A dot for the run's own log, else the animal and the track (T249/adapter.metrics.jsonl: "T249 adapter")."""
    parts = [*path.parent.relative_to(run).parts, path.name.removesuffix("metrics.jsonl").removesuffix(".")]
    return " ".join(part for part in parts if part) or "."


def pretrained_run(run: Path) -> Path:
    """The run that the adapted models in a folder came from, where it can still be found; else the folder itself."""
    bases = {json.loads(path.read_text()).get("base") for path in run.rglob("provenance.json")} - {None, ""}
    return next((Path(base) for base in sorted(bases) if Path(base).is_dir()), run)


def _training_note(history: pd.DataFrame) -> str:
    steps = int(pd.to_numeric(history["step"]).max())
    parts = [f"{steps:,} optimizer steps; long curves are averaged in equal stretches."]
    for key, text in (
        ("lr", "Highest learning rate {:.3g}."),
        ("windows_per_s", "Median throughput {:.4g} windows/s."),
    ):
        values = _numbers(history, key).dropna() if key in history else pd.Series(dtype=float)
        if len(values):
            parts.append(text.format(values.max() if key == "lr" else values.median()))
    return " ".join(parts)


def _numbers(history: pd.DataFrame, column: Any) -> pd.Series:
    return pd.to_numeric(history[column], errors="coerce")


def _history(path: Path) -> pd.DataFrame:
    """The complete lines of a `metrics.jsonl`; a line cut off by a crash is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"step", "split", "loss"} <= set(entry):
            lines.append(entry)
    return pd.DataFrame(lines)
