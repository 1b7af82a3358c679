"""The side-by-side study: same rows for every method, tasks of bins and of trials, a small run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.embedding_decoders import split_in_time
from eval.studies.beside_cebra import CHOSEN, NULL, OURS, THEIRS, Config, Variant, _cebra, compare, run
from eval.studies.embedding_tasks import SMOOTHED, Task, decode_embedding, read_task, trial_means, truth_of
from eval.studies.session_transfer import Recorded
from foundation.corpus import Corpus

CONFIG = Config(
    steps=60, learning_rate=5e-3, batch_size=128, seeds=[0, 1], variants={"steps 5": Variant(max_iterations=5)}
)
TASK = Task("toy", "toy/rat", "position", output_dimension=3)


def rat(num_bins: int = 1200) -> Recorded:
    rng = np.random.default_rng(0)
    angle = np.cumsum(rng.normal(0.05, 0.1, num_bins)) % (2 * np.pi)
    rate = 2 * np.exp(2 * (np.cos(angle[:, None] - rng.uniform(0, 2 * np.pi, 25)) - 1))
    label = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    split = split_in_time(num_bins)
    return Recorded("toy/rat", "rat", rng.poisson(rate).astype(np.float32), label, split.stretch(), split)


def test_all_methods_stand_beside_each_other() -> None:
    findings = compare({"ring": (TASK, rat())}, CONFIG)
    details = findings.tables[1].frame.set_index("method")
    assert details.seeds[OURS] == details.seeds[THEIRS] == 2
    assert details.score[OURS] > 0.5
    assert details.score[THEIRS] > 0.5
    # An untrained map still shows something of the activity.
    assert details.score[NULL] < details.score[OURS] - 0.1
    fits = findings.tables[2].frame
    ours = fits[fits.fit.fillna("").str.startswith("ours,") & ~fits.fit.isin([NULL]) & (fits.method != CHOSEN)]
    best = ours.loc[ours[ours.seed == 0].validation_loss.idxmin()]
    chosen = fits[fits.method == CHOSEN]
    assert chosen.seed.tolist() == [0, 1]
    same = ours[(ours.fit == best.fit) & (ours.reading == best.reading)]
    assert chosen.score.tolist() == same.score.tolist()
    assert {OURS + SMOOTHED, THEIRS + SMOOTHED} <= set(details.index)


def test_the_variant_that_validation_prefers_runs_with_every_seed() -> None:
    config = replace(CONFIG, steps=5, variants={"steps 60": Variant(max_iterations=60)})
    fits = compare({"ring": (TASK, rat())}, config).tables[2].frame
    assert fits[fits.method == CHOSEN].fit.unique().tolist() == ["ours, steps 60"]
    assert fits[fits.method == "ours, steps 60"].seed.tolist() == [0, 1]


def test_the_global_generators_are_given_back() -> None:
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = _cebra(TASK, rat(400), replace(CONFIG, steps=2), Variant(), 0)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert first.shape == (400, 3)


def test_trials_are_decoded_whole(synthetic_corpus: Corpus) -> None:
    task = Task(str(synthetic_corpus.path), synthetic_corpus.ids[0], "choice", bin_size_s=0.1, by_trial=True)
    read = read_task(task)
    truth, split = truth_of(task, read)
    assert len(truth) == read.stretch.max() + 1
    for part, bins in ((split.train, read.split.train), (split.test, read.split.test)):
        assert set(read.stretch[bins].tolist()) == set(part.tolist())
    assert not set(split.train) & set(split.test)
    for k in (0, 3):
        np.testing.assert_allclose(trial_means(read.activity, read)[k], read.activity[read.stretch == k].mean(axis=0))
    assert decode_embedding(read.activity, task, read)[""].prediction.shape == split.test.shape


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="got 0 tasks and 3 seeds, expected at least 1 of each"):
        run(Config())
