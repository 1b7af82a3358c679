"""Sessions as arrays against bins counted one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from foundation.corpus import Corpus
from foundation.recording import Recording
from foundation.session_arrays import session_arrays


def test_bins_of_trials_are_counted_one_by_one(synthetic_corpus: Corpus) -> None:
    recording = synthetic_corpus[synthetic_corpus.ids[0]]
    names = [name for name, c in recording.covariates.items() if c.spec.scope == "trial"][:2]
    session = session_arrays(recording, 0.05, names, within_trials=True)
    usable = np.flatnonzero(recording.trials["usable"])
    assert np.unique(session.trial).tolist() == usable.tolist()
    for trial in usable[:5]:
        start, stop = recording.trials.loc[trial, ["start_s", "stop_s"]]
        rows = np.flatnonzero(session.trial == trial)
        assert len(rows) == int((stop - start) / 0.05 + 1e-6)
        for t, row in enumerate(rows):
            times, units = recording.spikes_between(start + 0.05 * t, start + 0.05 * (t + 1))
            assert len(times) == session.activity[row].sum()
            assert (np.bincount(units, minlength=recording.num_units) == session.activity[row]).all()
        for name in names:
            covariate = recording.covariates[name]
            values = session.labels[name][rows]
            if covariate.observed[trial]:
                assert (values == covariate.values[trial]).all()
            else:
                assert ((values == -1) if values.dtype.kind == "i" else np.isnan(values)).all()


def test_the_domain_has_borders_and_unknown_labels_between_trials(synthetic_corpus: Corpus) -> None:
    recording = synthetic_corpus[synthetic_corpus.ids[0]]
    session = session_arrays(recording, 0.1, ["choice", "wheel_speed"])
    assert session.activity.shape == (len(session.trial), recording.num_units)
    assert session.labels["choice"].dtype == np.int64
    assert session.labels["wheel_speed"].dtype == np.float64
    assert len(np.unique(session.trial)) == len(recording.domain)
    part = session.take(session.trial == 0)
    assert len(part.activity) == len(part.labels["choice"]) == (session.trial == 0).sum()


def test_what_is_not_there_is_named(tiny_recording: Callable[..., Recording]) -> None:
    recording = tiny_recording()
    with pytest.raises(ValueError, match="no covariate 'paw', expected one of"):
        session_arrays(recording, 0.02, ["paw"])
    with pytest.raises(ValueError, match=r"no interval holds a bin of 1000000\.0 s"):
        session_arrays(recording, 1e6)
