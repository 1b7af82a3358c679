"""Classical statistics of each unit's own spike train, from spike times; never looks at another unit.

The baseline of unit embeddings on recordings without trials. What trials, tuning and other units add is
`eval.unit_features`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

_QUANTILES = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_SHORT_S = (0.003, 0.006, 0.012, 0.025, 0.05)
_LAG_EDGES_S = (0.0, 0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
_BLOCKS_S = (0.05, 0.2, 1.0, 5.0, 20.0)
# Intervals are read from logarithms; bursts below a millisecond are sorting errors, and counts in bins have ties.
_SHORTEST_S = 0.001


def spike_train_features(
    times: np.ndarray, units: np.ndarray, num_units: int, duration_s: float
) -> tuple[np.ndarray, list[str]]:
    """Rate, interspike intervals, autocorrelogram, Fano factors and slow drift of each unit.

    Args:
        times: `(K,)` seconds from the start, sorted; equal times are valid.
        units: `(K,)` unit of each spike, 0..num_units-1.
        num_units: N.
        duration_s: Seconds recorded.

    Returns:
        `(N, F)` float64, finite also for units without spikes, and the F names.

    Raises:
        ValueError: Times that are not sorted or lie outside the recording.
    """
    times, units = np.asarray(times, dtype=np.float64), np.asarray(units)
    if len(times) and (np.diff(times).min(initial=0) < 0 or times[0] < 0 or times[-1] > duration_s):
        raise ValueError(
            f"spike times from {times.min()} to {times.max()} s; expected sorted ones in 0..{duration_s} s"
        )
    order = np.argsort(units, kind="stable")
    edges = np.searchsorted(units[order], np.arange(num_units + 1))
    rows = [_features(times[order[lo:hi]], duration_s) for lo, hi in pairwise(edges)]
    return np.array([list(row.values()) for row in rows]).reshape(num_units, -1), list(_features(times[:0], duration_s))


def rate_and_isi(names: list[str]) -> list[int]:
    """Columns of `spike_train_features` that are rate or interspike intervals."""
    return [k for k, name in enumerate(names) if name == "log_rate" or name.startswith("isi_")]


def _features(t: np.ndarray, duration_s: float) -> dict[str, float]:
    """Statistics of one spike train `(K,)`, sorted; missing intervals count as Poisson ones of the unit's rate."""
    rate = len(t) / duration_s
    out = {"log_rate": float(np.log(rate + 0.01))}
    interval = np.diff(t)
    typical = duration_s / (len(t) + 1)
    log_isi = np.log(np.maximum(interval, _SHORTEST_S))
    for q in _QUANTILES:
        missing = np.log(max(-np.log1p(-q) * typical, _SHORTEST_S))
        out[f"isi_quantile_{q:g}"] = float(np.quantile(log_isi, q)) if len(interval) else float(missing)
    for short_s in _SHORT_S:
        expected = len(interval) * -np.expm1(-short_s / typical)
        out[f"isi_below_{short_s:g}s"] = _log_ratio((interval < short_s).sum(), expected)
    out["isi_cv"] = float(np.log((interval.std() + 1e-3) / (interval.mean() + 1e-3))) if len(interval) else 0.0
    both = interval[1:] + interval[:-1]
    change = np.abs(np.diff(interval)) / np.maximum(both, _SHORTEST_S)
    out["isi_cv2"] = float(2 * change.mean()) if len(change) else 1.0
    out["isi_lv"] = float(3 * (change**2).mean()) if len(change) else 1.0
    for lo, hi in pairwise(_LAG_EDGES_S):
        # Pairs of spikes whose lag is in [lo, hi), a spike with itself left out.
        pairs = np.searchsorted(t, t + hi) - np.maximum(np.searchsorted(t, t + lo), np.arange(len(t)) + 1)
        out[f"autocorrelogram_{hi:g}s"] = _log_ratio(np.maximum(pairs, 0).sum(), len(t) * rate * (hi - lo))
    for block_s in _BLOCKS_S:
        blocks = max(2, int(duration_s / block_s))
        counts = np.histogram(t, bins=blocks, range=(0, blocks * block_s))[0]
        out[f"fano_{block_s:g}s"] = float(np.log((counts.var() + 0.01) / (counts.mean() + 0.01)))
    return out


def _log_ratio(observed: float, expected: float) -> float:
    """Log of observed over expected numbers, drawn to 0 where few are expected."""
    return float(np.log((observed + 1) / (expected + 1)))
