"""Scores of Brain-Wide Bench predictions by the published package `ibl-bwb-eval`, in an environment of its own.

It pins torch, NumPy, SciPy and scikit-learn, so it cannot live beside this library:

    uv venv bwb && uv pip install --python bwb/bin/python ibl-bwb-eval==0.1.0
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eval.bwb_scores import FileScore

# What `python -m ibl_bwb_eval.scoring.<suite>` prints, before it is rounded to four digits and cut to the terminal.
_SCRIPT = """
import importlib, json, sys
import ibl_bwb_eval
suite, predictions, truth, out = sys.argv[1:]
scores = importlib.import_module("ibl_bwb_eval.scoring." + suite).score_dir(predictions, truth)
rows = [[list(key), {name: float(value) for name, value in of.items()}] for key, of in scores.items()]
json.dump({"version": ibl_bwb_eval.__version__, "rows": rows}, open(out, "w"))
"""


@dataclass(frozen=True)
class PackageScores:
    """What the package says.

    Attributes:
        version: Of the package.
        scores: By label, task ("" in suite 3, whose scorer drops it), session ("" in suite 3) and seed, by metric.
    """

    version: str
    scores: dict[tuple[str, str, str, int], dict[str, float]]


def score_with_package(
    python: str | Path, suite: str, predictions: str | Path, ground_truth: str | Path, timeout_s: float = 3600
) -> PackageScores:
    """Run the package's scorer of a suite in its own interpreter.

    Args:
        python: Interpreter that has `ibl-bwb-eval`.
        suite: "ts1", "ts2" or "ts3".
        predictions: Folder of predictions; other suites' are passed over.
        ground_truth: Folder of truths.
        timeout_s: After which it is stopped.

    Raises:
        ValueError: No such interpreter, it lacks the package, or the package failed; the message has its last words.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "scores.json"
        # Isolated: neither the working folder nor PYTHONPATH may bring modules of this library into it.
        command = [str(python), "-I", "-c", _SCRIPT, suite, str(predictions), str(ground_truth), str(out)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ValueError(f"{python}: {error}; give an interpreter that has ibl-bwb-eval") from None
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise ValueError(f"{python}: ibl-bwb-eval stopped ({' '.join(last)}); install ibl-bwb-eval there")
        document = json.loads(out.read_text())
    scores = {}
    for key, values in document["rows"]:
        label, task, recording_id, seed = key if len(key) == 4 else (key[0], "", "", key[1])
        scores[label, task, recording_id, int(seed)] = values
    return PackageScores(document["version"], scores)


def largest_difference(ours: Iterable[FileScore], theirs: PackageScores) -> tuple[float, str]:
    """The largest absolute difference between our numbers and the package's, and where it is.

    Raises:
        ValueError: A file or metric that only one of the two has a number for; NaN is no number.
    """
    worst, where, seen = 0.0, "", set()
    for one in ours:
        key = one.key if one.recording_id else (one.label, "", "", one.seed)
        seen.add(key)
        if key not in theirs.scores:
            raise ValueError(f"{one.key}: the package left this file out; run its own command to see why")
        values = {name: value for name, value in theirs.scores[key].items() if math.isfinite(value)}
        if "pearson" not in one.scores:
            values.pop("pearson", None)  # of a constant prediction: rounding in single precision
        if differs := sorted(set(values) ^ set(one.scores)):
            raise ValueError(f"{one.key}: {differs} scored by one of the two only")
        for name, value in values.items():
            if abs(value - one.scores[name]) >= worst:
                worst, where = abs(value - one.scores[name]), f"{name} of {'/'.join(map(str, one.key))}"
    if extra := sorted(set(theirs.scores) - seen):
        raise ValueError(f"{extra[0]}: scored by the package only")
    return worst, where
