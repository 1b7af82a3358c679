"""Data on both sides of a split: animals, recordings, trials, units and predictions that are one and the same.

Every check is a comparison for equality, up to an order of units, a shift of the clock, a cut or a little noise; chance
does not reach the thresholds, so the false-alarm rates are those measured on different animals and on simulated ones: 0
(n in the tests). Copies in other bins than the original are not seen, nor is an animal in two sessions of other names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from eval.leak import Leak
from eval.predictions import Prediction
from eval.session_view import SessionView
from eval.unit_folds import UnitFold, unit_folds, unit_tasks
from foundation.corpus import Corpus
from foundation.recording import Recording
from foundation.splits import TRAIN, VAL

# Runs of so many intervals, read in steps of 0.1 ms, with so many different ones among them: chance repeats none.
RUN, MIN_DIFFERENT, STEP_S = 12, 6, 1e-4
# Of runs of spikes one in so many is kept, the same ones in every recording.
KEPT = 8
# Share of the runs of the smaller recording that the other has too, and how many it takes to judge.
SHARED_SPIKES, SHARED_CLOCK, MIN_RUNS = 0.01, 0.5, 20
TWIN, TWIN_LAGS, MIN_SPIKES = 0.98, 2, 50
SAME_PREDICTION, SAME_AS_TRUTH = 1e-3, 0.1
_MIN_NAME = 3


def spelled(name: str) -> str:
    """A name without case and punctuation."""
    return "".join(filter(str.isalnum, name)).casefold()


def animal_leaks(subjects: Mapping[str, str], pretraining: Sequence[str], evaluated: Sequence[str]) -> list[Leak]:
    """Animals on both sides, by name.

    Args:
        subjects: Animal of each recording id.
        pretraining: Recording ids.
        evaluated: Recording ids.
    """
    before = {subjects[key] for key in pretraining}
    leaks = []
    for animal in sorted({subjects[key] for key in evaluated}):
        if animal in before:
            leaks.append(Leak.of("animal on both sides", animal, 1, 0))
        leaks += [
            Leak.of("animal spelled in two ways", f"{animal!r} and {other!r}", 1, 0)
            for other in sorted(before)
            if other != animal and spelled(other) == spelled(animal)
        ]
    for mine, others in ((evaluated, pretraining), (pretraining, evaluated)):
        names = {spelled(subjects[key]): subjects[key] for key in others}
        for key in mine:
            session, own = spelled(key.split("/")[-1]), spelled(subjects[key])
            for name, animal in names.items():
                if len(name) >= _MIN_NAME and name != own and session.startswith(name) and name not in own:
                    where = f"{key} is of {subjects[key]!r}, and named like {animal!r} of the other side"
                    leaks.append(Leak.undecided("session named after an animal of the other side", where, 1, 0))
    return leaks


def recording_leaks(corpus: Corpus, pretraining: Sequence[str], evaluated: Sequence[str]) -> list[Leak]:
    """Recordings on both sides under two ids: equal bytes, equal runs of spikes, or equal runs of trials.

    Runs of intervals between the spikes of a unit survive another order of units, another start of the clock, a cut in
    time and units left out; runs of intervals between trials survive another sorting and another probe.
    """
    leaks, late = [], {}
    for key in evaluated:
        recording = corpus[key]
        late[key] = (_spikes_sha256(corpus, key), spike_runs(recording), trial_runs(recording))
        if len(late[key][1]) < MIN_RUNS:
            where = f"{key}: too few spikes to be recognized under another name"
            leaks.append(Leak.undecided("recording on both sides", where, len(late[key][1]), MIN_RUNS))
    for early in pretraining:
        recording = corpus[early]
        digest, spikes, trials = _spikes_sha256(corpus, early), spike_runs(recording), trial_runs(recording)
        for key, (other, other_spikes, other_trials) in late.items():
            shared = 1.0 if digest == other else shared_runs(spikes, other_spikes)
            if key == early or shared > SHARED_SPIKES:
                leaks.append(Leak.of("recording on both sides", f"{early} = {key}", shared, SHARED_SPIKES))
            elif (clock := shared_runs(trials, other_trials)) > SHARED_CLOCK:
                leaks.append(Leak.of("trial clock on both sides", f"{early} = {key}", clock, SHARED_CLOCK))
    return leaks


def spike_runs(recording: Recording) -> np.ndarray:
    """Sorted hashes `(K,)` of the runs of intervals of its units, one in `KEPT` of them."""
    order = np.argsort(recording.spike_units, kind="stable")
    return _runs(np.asarray(recording.spike_times)[order], np.asarray(recording.spike_units)[order], KEPT)


def trial_runs(recording: Recording) -> np.ndarray:
    """Sorted hashes `(K,)` of the runs of intervals between the starts of its trials."""
    starts = recording.trials["start_s"].to_numpy(float)
    return _runs(starts, np.zeros(len(starts), np.int64), 1)


def shared_runs(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the smaller set of hashes that is in the other; 0 where there are too few to tell."""
    fewest = min(len(first), len(second))
    return len(np.intersect1d(first, second, assume_unique=True)) / fewest if fewest >= MIN_RUNS else 0.0


def _runs(times: np.ndarray, group: np.ndarray, kept: int) -> np.ndarray:
    num = len(times) - RUN
    if num <= 0:
        return np.zeros(0, np.uint64)
    # The offset keeps clocks of 1, 10, 20, 25, 30 and 32 kHz from rounding either way.
    step = np.rint(np.diff(times) / STEP_S + 0.137).astype(np.int64)
    code = np.zeros(num, np.uint64)
    for k in range(RUN):
        code = code * np.uint64(0x9E3779B97F4A7C15) + step[k : k + num].astype(np.uint64)
    code = (code ^ (code >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    code ^= code >> np.uint64(32)
    rows = np.flatnonzero((group[:num] == group[RUN:]) & (code % np.uint64(kept) == 0))
    run = np.sort(step[rows[:, None] + np.arange(RUN)], axis=1)
    return np.unique(code[rows[(np.diff(run, axis=1) > 0).sum(axis=1) >= MIN_DIFFERENT - 1]])


def _spikes_sha256(corpus: Corpus, key: str) -> str:
    return str(json.loads((corpus.folder(key) / "info.json").read_bytes())["files"]["spikes.arrow"])


def adaptation_leaks(view: SessionView, roles: np.ndarray) -> list[Leak]:
    """Test trials that adaptation used as train or validation trials.

    Args:
        view: The session as it is scored.
        roles: `(M,)` as adaptation used them.
    """
    key, test = f"{view.dataset}/{view.session}", view.trials_in("test", full=True)
    if len(roles) != len(view.full_roles):
        where = f"{key}: adapted with roles of {len(roles)} trials, {len(view.full_roles)} are stored"
        return [Leak.of("test trials in adaptation", where, len(test), 0)]
    used = int(np.isin(np.asarray(roles)[test], (TRAIN, VAL)).sum())
    return [Leak.of("test trials in adaptation", key, used, 0)] if used else []


def trial_leaks(view: SessionView) -> list[Leak]:
    """Test trials whose counts are those of a train or validation trial: r > .98 over all units and bins.

    Counts of single trials are noisy, so two trials of one condition come nowhere near (Poisson spikes at any rate
    below 50 per bin stay under it). Trials with fewer than 50 spikes are not compared.
    """
    totals = np.zeros((len(view.num_bins), len(view.unit)))
    np.add.at(totals, view.trial, view.counts)
    spikes, first = totals.sum(axis=1), view.first_row()
    test = [m for m in view.trials_in("test", full=True) if spikes[m] >= MIN_SPIKES]
    known = np.flatnonzero(np.isin(view.full_roles, (TRAIN, VAL)) & (spikes >= MIN_SPIKES))
    if not test or not len(known):
        where = f"{view.dataset}/{view.session}: trials with {MIN_SPIKES} spikes in test"
        return [Leak.undecided("trial in two roles", where, len(test), 1)]
    copies, highest = [], 0.0
    for m in test:
        # Trials of much the same units are few; only these are compared bin by bin.
        gap = np.abs(totals[known] - totals[m]).sum(axis=1) / spikes[m]
        for other in known[gap < 0.1]:
            size = min(view.num_bins[m], view.num_bins[other])
            a, b = (view.counts[first[k] : first[k] + size].astype(float).ravel() for k in (m, other))
            r = float(np.corrcoef(a, b)[0, 1]) if a.any() and b.any() else 0.0
            if r > TWIN:
                copies.append(f"{view.source_trial[m]} = {view.source_trial[other]}")
                highest = max(highest, r)
    where = f"{view.dataset}/{view.session}: {len(copies)} pairs of trials, such as {', '.join(copies[:3])}"
    return [Leak.of("trial in two roles", where, highest, TWIN)] if copies else []


def unit_leaks(view: SessionView, folds: Sequence[UnitFold] | None = None) -> list[Leak]:
    """Units that are read for a held-out unit and have its counts: r > .98 at up to two bins' lag.

    Units with fewer than 50 spikes in the train rows are not compared: two single spikes may coincide.

    Args:
        view: The session; its full train rows are read.
        folds: As the model was given them; by default those of all tasks of `eval.unit_folds` that the session has.

    Raises:
        ValueError: No folds are given, and all that co-smoothing could read are twins.
    """
    train = np.flatnonzero(view.rows_in("train", full=True))
    counts = view.counts[train].astype(float)
    busy = np.flatnonzero(counts.sum(axis=0) >= MIN_SPIKES)
    pairs: dict[tuple[int, int], float] = {}
    for lag in range(-TWIN_LAGS, TWIN_LAGS + 1):
        a = np.arange(max(0, -lag), len(train) - max(0, lag))
        a = a[view.trial[train[a]] == view.trial[train[a + lag]]]
        r = _correlation(counts[np.ix_(a, busy)], counts[np.ix_(a + lag, busy)])
        for i, j in np.argwhere(r > TWIN):
            key = (int(busy[i]), int(busy[j]))
            pairs[key] = max(pairs.get(key, 0.0), float(r[i, j]))
    pairs = {key: r for key, r in pairs.items() if key[0] != key[1]}
    if not pairs:
        return []
    folds = [fold for task in unit_tasks(view) for fold in unit_folds(view, task)] if folds is None else folds
    given = sorted({(i, j) for fold in folds for i, j in pairs if i in fold.held_out and j in fold.inputs})
    shown = ", ".join(f"{view.unit[i]} from {view.unit[j]}" for i, j in given[:3])
    where = f"{view.dataset}/{view.session}: {len(given)} held-out units, such as {shown}"
    return [Leak.of("twin units", where, max(pairs[key] for key in given), TWIN)] if given else []


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the columns of `a (R, N)` with those of `b`, `(N, N)`; 0 where one does not vary."""
    if len(a) < 2:
        return np.zeros((a.shape[1], b.shape[1]))
    za, zb = ((x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), np.inf) for x in (a, b))
    return np.asarray(za.T @ zb / len(za))


def prediction_leaks(mine: Prediction, others: Sequence[Prediction], view: SessionView) -> list[Leak]:
    """Whether a model's prediction is that of a baseline or null, or the spikes it was to predict.

    Args:
        mine: The model's.
        others: Baselines and nulls of the same session, task and track.
        view: The session.
    """
    where, keyed = f"{mine.model} on {view.dataset}/{view.session}, {mine.task}", _by_key(mine)
    leaks = []
    for other in others:
        distance = _distance(keyed, _by_key(other))
        if distance < SAME_PREDICTION:
            name = f"{where}: that of {other.model!r}"
            leaks.append(Leak.of("prediction is that of another", name, distance, SAME_PREDICTION))
    if "rate" in mine.arrays:
        rows = view.rows_in("test", full=True)
        truth = Prediction.of_rates(view, mine.task, "truth", view.counts[rows].astype(float), rows)
        distance = _distance(keyed, _by_key(truth))
        if distance < SAME_AS_TRUTH:
            leaks.append(Leak.of("prediction is the test data", where, distance, SAME_AS_TRUTH))
    return leaks


def _by_key(prediction: Prediction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted keys `(R,)` of rows, units `(U,)` (a single 0 for scalars) and values `(R, U)` in their order."""
    arrays = prediction.arrays
    rows = arrays["trial"].astype(np.int64) << 32 | arrays.get("bin", np.zeros(1, np.int64)).astype(np.int64)
    units = arrays.get("unit", np.zeros(1, np.int64))
    values = next(arrays[name] for name in ("rate", "logit", "value") if name in arrays).reshape(len(rows), -1)
    by_row, by_unit = np.argsort(rows), np.argsort(units)
    return rows[by_row], units[by_unit], values[by_row][:, by_unit].astype(float)


def _distance(
    mine: tuple[np.ndarray, np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> float:
    """Root mean square difference, relative to how the other varies about each unit's mean (or else to its size)."""
    _, i, j = np.intersect1d(mine[0], other[0], return_indices=True)
    _, k, n = np.intersect1d(mine[1], other[1], return_indices=True)
    a, b = mine[2][np.ix_(i, k)], other[2][np.ix_(j, n)]
    if not a.size:
        return float("inf")

    def size(x: np.ndarray) -> float:
        return float(np.sqrt(np.mean(x**2)))

    varies = size(b - b.mean(axis=0))
    return size(a - b) / max(varies if varies > 1e-3 * size(b) else size(b), 1e-12)


def view_leaks(view: SessionView) -> Iterator[Leak]:
    """Trials and units of one session that stand on both sides of its own split."""
    yield from trial_leaks(view)
    if len(view.unit) > 1:
        yield from unit_leaks(view)
