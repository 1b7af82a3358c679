"""CPU time of a contrastive training step beside the `cebra` package's, and how ours grows with length and sessions.

    python -m benchmarks.contrastive [--quick]

Both sides train through their scikit-learn face on the same arrays: Poisson counts of 120 units tuned to a smooth walk
in the plane, its two coordinates as continuous label, receptive field 10, 32 hidden units, 8 dimensions, batch 512, one
thread. A step's time is the CPU time of a fit of many steps less that of a fit of few, so that preparing the data is in
neither. Sides take turns within a round; ratios are medians over rounds of theirs over ours. Memory is the peak of a
process of its own, ours at 8, 16 and 32 sessions of 10,000 bins with the exact loss over all sessions' references.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from foundation.estimator import ContrastiveEmbedding

NUM_UNITS, BATCH = 120, 512
#: Steps of the short and the long fit of each side.
Steps = tuple[int, int]
Fit = Callable[[int], object]


def session(seed: int, num_bins: int, num_units: int = NUM_UNITS) -> tuple[np.ndarray, np.ndarray]:
    """Counts `(T, N)` float32 and a position `(T, 2)` float64 in a unit square."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 0.02, (num_bins, 2)), axis=0)
    # Reflected at the walls.
    position = 1 - np.abs(np.mod(walk, 2) - 1)
    centers = rng.random((num_units, 2))
    distance = ((position[:, None] - centers) ** 2).sum(axis=2)
    return rng.poisson(1.5 * np.exp(-distance / 0.05)).astype(np.float32), position


def ours(sessions: list[tuple[np.ndarray, np.ndarray]], negatives: str) -> Fit:
    """Our fit of some steps."""
    X, y = [s[0] for s in sessions], [s[1] for s in sessions]

    def fit(steps: int) -> object:
        model = ContrastiveEmbedding("behavior", batch_size=BATCH, max_iterations=steps, negatives=negatives)
        return model.fit(X, y)

    return fit


def theirs(sessions: list[tuple[np.ndarray, np.ndarray]]) -> Fit:
    """CEBRA's fit of some steps, with the same encoder, loss and way of drawing positives."""
    import cebra  # here, so that the processes whose memory is measured do without

    X, y = [s[0] for s in sessions], [s[1].astype(np.float32) for s in sessions]

    def fit(steps: int) -> object:
        model = cebra.CEBRA(
            model_architecture="offset10-model",
            conditional="time_delta",
            batch_size=BATCH,
            max_iterations=steps,
            time_offsets=1,
            device="cpu",
            verbose=False,
        )
        return model.fit(X[0], y[0]) if len(X) == 1 else model.fit(X, y)

    return fit


def step_ms(fit: Fit, steps: Steps) -> float:
    """CPU ms of a step."""
    spent = []
    for number in steps:
        start = time.process_time()
        fit(number)
        spent.append(time.process_time() - start)
    return 1e3 * (spent[1] - spent[0]) / (steps[1] - steps[0])


def compare(name: str, sides: dict[str, tuple[Fit, Steps]], rounds: int) -> dict[str, float]:
    """CPU ms of a step of each side, medians over rounds in which they take turns, and theirs over ours."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, (fit, steps) in sides.items():
            times[side].append(step_ms(fit, steps))
    result = {side: float(np.median(values)) for side, values in times.items()}
    for side in sides:
        if side != "cebra":
            result[f"ratio_{side}"] = float(np.median(np.array(times["cebra"]) / np.array(times[side])))
    print(name, " ".join(f"{key} {value:.2f}" for key, value in result.items()), flush=True)
    return result


def peak_mb(num_sessions: int, num_bins: int) -> float:
    """Peak memory of a process that trains on so many sessions, MB."""
    code = (
        "import resource, torch; torch.set_num_threads(1)\n"
        "from benchmarks.contrastive import ours, session\n"
        f"ours([session(s, {num_bins}) for s in range({num_sessions})], 'all')(2)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run all comparisons and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, and no run of a million bins")
    quick = parser.parse_args(argv).quick
    torch.set_num_threads(1)
    rounds = 1 if quick else 3
    # Memory first: a child's peak starts from the pages it shares with its parent.
    peaks = {} if quick else {number: peak_mb(number, 10_000) for number in (8, 16, 32)}
    short, long, many = [session(0, 10_000)], [session(0, 100_000)], [session(s, 10_000) for s in range(16)]
    ten = compare("10k bins", {"cebra": (theirs(short), (5, 45)), "ours": (ours(short, "all"), (5, 85))}, rounds)
    hundred = compare("100k bins", {"cebra": (theirs(long), (1, 7)), "ours": (ours(long, "all"), (5, 65))}, rounds)
    sixteen = compare(
        "16 sessions",
        {
            "cebra": (theirs(many), (1, 4)),
            "per_session": (ours(many, "session"), (1, 7)),
            "exact": (ours(many, "all"), (1, 7)),
        },
        rounds,
    )
    result: dict[str, Any] = {
        "ratio_10k": ten["ratio_ours"],
        "ratio_100k": hundred["ratio_ours"],
        "ratio_16_sessions": sixteen["ratio_per_session"],
        "ratio_16_sessions_exact": sixteen["ratio_exact"],
        "ms_10k": ten["ours"],
        "ms_100k": hundred["ours"],
        "ms_16_sessions": sixteen["per_session"],
        "ms_16_sessions_exact": sixteen["exact"],
        "cebra_ms_10k": ten["cebra"],
        "cebra_ms_100k": hundred["cebra"],
        "cebra_ms_16_sessions": sixteen["cebra"],
    }
    if not quick:
        del long
        result["ms_1M"] = step_ms(ours([session(0, 1_000_000)], "all"), (5, 65))
        result["peak_mb"] = peaks
    result["peak_mb_of_this_process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in result.items()}))
    return result


if __name__ == "__main__":
    main()
