"""CPU time and memory of `foundation evaluate`, and the share of it that goes into baselines, by `--baselines`.

    python -m benchmarks.evaluation RUN... --corpus CORPUS --subjects A [B...] [--tasks ...]

Every setting evaluates the same runs in a process of its own, with one thread, into a folder that is thrown away. The
share of baselines is what a setting costs beyond `none`: their fits, their scores, and the thorough region probes that
come with `standard` and `all`. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

EFFORTS = ("none", "quick", "standard", "all")


def measure(arguments: list[str], effort: str) -> dict[str, float]:
    """Wall and CPU seconds and peak MiB of one evaluation.

    Args:
        arguments: Of `foundation evaluate`, without `--out` and `--baselines`.
        effort: Value of `--baselines`.
    """
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "foundation", "evaluate", *arguments, "--out", out, "--baselines", effort]
        begun = time.perf_counter()
        with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL) as child:
            # Of this child alone: the peak over all children would be that of the largest so far.
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"evaluate --baselines {effort} ended with {child.returncode}; see above")
        wall = time.perf_counter() - begun
    # Linux counts in KiB.
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}


def main() -> None:
    """Measure every setting and print one line each, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--subjects", nargs="+", required=True)
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--efforts", nargs="+", choices=EFFORTS, default=EFFORTS)
    a = parser.parse_args()
    arguments = [*a.runs, "--corpus", a.corpus, "--subjects", *a.subjects]
    arguments += ["--tasks", *a.tasks] if a.tasks else []
    found = {effort: measure(arguments, effort) for effort in a.efforts}
    for effort, cost in found.items():
        share = 1 - found["none"]["cpu_s"] / cost["cpu_s"] if "none" in found else float("nan")
        cost["share_beyond_none"] = share
        print(
            f"{effort:10s}{cost['wall_s']:8.1f} s{cost['cpu_s']:8.1f} CPU s{cost['peak_mib']:8.0f} MiB"
            f"{share:8.0%} beyond none"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
