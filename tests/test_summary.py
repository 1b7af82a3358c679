"""The lines at the end of `foundation evaluate`: means by hand."""

from __future__ import annotations

import pandas as pd

from eval.summary import summary_lines


def rows(model: str, values: dict[tuple[str, int], float], **other: object) -> pd.DataFrame:
    """Rows of one model from {(session, seed): value}."""
    lines = [{"session": session, "seed": seed, "value": value} for (session, seed), value in values.items()]
    fixed = {"dataset": "d", "split": "interleaved", "task": "choice", "metric": "auc", "train_trials": 0, "fold": 0}
    fixed |= {"draw": 0, "subject": "a", "kind": "model", "baseline_value": 0.5, "null_value": float("nan")}
    return pd.DataFrame(lines).assign(model=model, **{**fixed, **other})


def test_means_are_over_sessions_and_variants_are_left_out() -> None:
    table = pd.concat(
        [
            rows("run/adapter", {("s1", 0): 0.6, ("s1", 1): 0.8, ("s2", 0): 0.9}),
            rows("run/adapter", {("s1", 0): 123.0}, metric="balanced_accuracy"),
            rows("run/scratch", {("s1", 0): 0.25}, baseline_value=0.1),
            rows("run/adapter, forest", {("s1", 0): 77.0}),
            rows("run/adapter", {("s1", 0): 0.03125}, task="encode E2", metric="bps"),
            rows("ridge", {("s1", 0): 55.0}, kind="baseline"),
        ]
    )
    head, choice, encode = (line.split() for line in summary_lines(table))
    assert head == ["task", "metric", "adapter", "scratch", "baseline", "null"]
    assert choice == ["choice", "auc", "0.800", "0.250", "0.500", "-"]
    assert encode == ["encode", "E2", "bps", "0.031", "-", "0.500", "-"]


def test_runs_and_settings_are_told_apart() -> None:
    few = rows("one/adapter", {("s1", 0): 0.125}, train_trials=16)
    lines = summary_lines(pd.concat([rows("two/adapter", {("s1", 0): 0.75}), few]))
    assert lines[0].split()[2:4] == ["two/adapter", "one/adapter"]
    assert lines[1] == "d, interleaved, all train trials"
    assert lines[2].split() == ["choice", "auc", "0.750", "-", "0.500", "-"]
    assert lines[3] == "d, interleaved, 16 train trials"
    assert lines[4].split() == ["choice", "auc", "-", "0.125", "0.500", "-"]
