"""Every masking scheme hides what its definition says, on windows of any shape, and depends on the window alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from foundation.channels import Channel
from foundation.masking import SCHEMES, Hidden, MaskingConfig, Masks, Shape, collate, draw_masks, window_shapes
from foundation.recording import CovariateSpec
from foundation.sampling import STRUCTURE

CONFIG = MaskingConfig()
BY_UNIT = {"units", "intra_region", "inter_region"}
SPIKES_HIDDEN_BY_BIN = {"within_neural", "cross"}


@st.composite
def channels_of_any_kind(draw: st.DrawFn) -> list[Channel]:
    channels = []
    for i in range(draw(st.integers(0, 6))):
        scope = draw(st.sampled_from(["time", "trial"]))
        kind = draw(st.sampled_from(["continuous", "categorical"] + ["event"] * (scope == "time")))
        role = draw(st.sampled_from(["behavior", "stimulus", "task"]))
        spec = CovariateSpec(f"c{i}", kind, scope, num_classes=3 * (kind == "categorical"), role=role)
        channels.append(Channel(spec, is_input=draw(st.booleans()), is_target=draw(st.booleans())))
    return channels


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """1 to 40 bins with trials and gaps anywhere, 1 to 20 units in up to 3 regions or none, any channels."""
    pieces = draw(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=6))
    trial, ordinal = [], 0
    for inside, bins in pieces:
        trial += [ordinal if inside else -1] * bins
        ordinal += inside
    regions = np.array(draw(st.lists(st.integers(-1, 2), min_size=1, max_size=20)))
    known = regions if draw(st.booleans()) else None
    return Shape(len(trial), len(regions), draw(channels_of_any_kind()), np.array(trial), known)


def whole_trials(hidden: Hidden, shape: Shape) -> bool:
    """Whether each trial-scope value is hidden in all bins of its trial or in none."""
    for c, channel in enumerate(shape.channels):
        if channel.spec.scope == "trial":
            for trial in set(shape.trial[shape.trial >= 0].tolist()):
                if len(set(hidden.covariates[shape.trial == trial, c].tolist())) > 1:
                    return False
    return True


@settings(max_examples=150, deadline=None)
@given(shape=shapes(), name=st.sampled_from(sorted(SCHEMES)), seed=st.integers(0, 2**31))
def test_every_scheme_hides_what_it_says(shape: Shape, name: str, seed: int) -> None:
    hidden = SCHEMES[name](shape, np.random.default_rng(seed), CONFIG)
    assert hidden.bins.shape == (shape.num_bins,)
    assert hidden.units.shape == (shape.num_units,)
    assert hidden.covariates.shape == (shape.num_bins, len(shape.channels))
    assert hidden.structure.shape == (shape.num_bins, len(STRUCTURE))
    assert whole_trials(hidden, shape)
    time_scope = [c for c, channel in enumerate(shape.channels) if channel.spec.scope == "time"]
    trial_scope = [c for c, channel in enumerate(shape.channels) if channel.spec.scope == "trial"]
    targets = np.array([channel.is_target for channel in shape.channels], bool)
    assert hidden.spikes_predicted == (name in {"neural", "within_neural", "cross", "future"} | BY_UNIT)
    assert hidden.covariates_predicted == (name in {"behavior", "spikes_only", "within_behavior", "cross"})
    # A scheme that predicts spikes has some to predict.
    assert not hidden.spikes_predicted or hidden.bins.any() or hidden.units.any()
    assert hidden.units.any() == (name in BY_UNIT)
    # What is hidden and not predicted never is all that is hidden.
    assert not hidden.unscored.any() or (hidden.units & ~hidden.unscored).any()
    assert not (hidden.unscored & ~hidden.units).any()
    if name not in {"neural", "within_neural", "cross", "future"}:
        assert not hidden.bins.any()
    if name not in {"behavior", "spikes_only"}:
        assert not hidden.structure.any()
    if name == "neural":
        assert hidden.bins.all()
        assert not hidden.covariates.any()
    elif name in {"behavior", "spikes_only"}:
        assert hidden.covariates.all()
        shown = {STRUCTURE[f] for f in range(len(STRUCTURE)) if not hidden.structure[:, f].any()}
        assert shown == ({"since_start", "in_trial"} if name == "behavior" else set())
        assert all(hidden.structure[:, f].all() for f in range(len(STRUCTURE)) if STRUCTURE[f] not in shown)
    elif name in {"within_neural"} | BY_UNIT:
        assert not hidden.covariates.any()
    elif name == "within_behavior":
        assert not hidden.covariates[:, ~targets].any()
    elif name == "cross":
        for c in time_scope:
            assert np.array_equal(hidden.covariates[:, c], hidden.bins)
    elif name == "future":
        first = int(np.argmax(hidden.bins))
        assert hidden.bins[first:].all()
        assert 1 <= shape.num_bins - first <= max(1, round(CONFIG.future_share * shape.num_bins))
        for c in time_scope:
            assert np.array_equal(hidden.covariates[:, c], hidden.bins)
        for c in trial_scope:
            assert (hidden.covariates[:, c] == (shape.channels[c].spec.role == "behavior")).all()


@settings(max_examples=100, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 2**31))
def test_region_schemes_follow_regions(shape: Shape, seed: int) -> None:
    inside, whole = (
        SCHEMES[name](shape, np.random.default_rng(seed), CONFIG) for name in ("intra_region", "inter_region")
    )
    known = np.full(shape.num_units, -1) if shape.regions is None else shape.regions
    numbers, counts = np.unique(known[known >= 0], return_counts=True)
    if (counts >= 2).any():
        (region,) = set(known[~inside.unscored].tolist())
        assert region in numbers[counts >= 2]
        assert inside.unscored.tolist() == (known != region).tolist()
        assert inside.units[known != region].all()
    else:
        assert not inside.unscored.any()
    assert not whole.unscored.any()
    if len(numbers) and (known != numbers[0]).any():
        (region,) = set(known[whole.units].tolist())
        assert region >= 0
        assert whole.units.tolist() == (known == region).tolist()


def test_regions_come_from_the_recording(world: Any) -> None:
    batch = world.batch(2)
    for key, numbers in zip(batch.recording_ids, batch.regions, strict=True):
        names = world.reader.recording(key).units["region"].to_numpy(str)
        assert ((numbers[:, None] == numbers) == (names[:, None] == names)).all()
        assert ((numbers < 0) == (names == "")).all()
        assert len(set(names)) > 1


@pytest.mark.parametrize(("scheme", "share"), [("within_neural", 0.3), ("cross", 0.3), ("units", 0.225)])
def test_the_share_hidden_is_that_of_the_config(scheme: str, share: float) -> None:
    shape = Shape(50, 50, [], np.zeros(50, int))
    rng = np.random.default_rng(0)
    drawn = [SCHEMES[scheme](shape, rng, CONFIG) for _ in range(400)]
    found = [(hidden.units if scheme == "units" else hidden.bins).mean() for hidden in drawn]
    assert np.mean(found) == pytest.approx(share, abs=3 * np.std(found) / 20)


def test_behaviors_are_hidden_independently_within_behavior() -> None:
    spec = CovariateSpec("a", "continuous", "time")
    shape = Shape(2000, 1, [Channel(spec), Channel(replace(spec, name="b"))], np.zeros(2000, int))
    covariates = SCHEMES["within_behavior"](shape, np.random.default_rng(0), CONFIG).covariates
    assert covariates.mean() == pytest.approx(0.3, abs=0.03)
    assert (covariates[:, 0] & covariates[:, 1]).mean() == pytest.approx(0.09, abs=0.02)


def rows_of(masks: Masks, sizes: list[int]) -> list[list[np.ndarray]]:
    """Per window, all that is hidden."""
    spikes = [row for part in masks.spikes for row in part.numpy()]
    return [
        [spikes[i], *(getattr(masks, name)[i].numpy() for name in ("bins", "covariates", "structure"))]
        for i in range(sum(sizes))
    ]


def test_windows_of_a_batch_have_masks_of_their_own(world: Any) -> None:
    windows = [replace(w, num_bins=30) for ws in world.data.train.values() for w in ws if w.num_bins == 30][:40]
    batch = world.reader.batch(windows)
    for scheme in ("within_neural", "cross"):
        masks = draw_masks(batch, world.channels, CONFIG, (0, 1), scheme)
        assert len({row.tobytes() for row in masks.bins.numpy()}) == len(windows)
    first = draw_masks(batch, world.channels, CONFIG, (0, 1))
    again = draw_masks(batch, world.channels, CONFIG, (0, 1))
    other = draw_masks(batch, world.channels, CONFIG, (0, 2))
    assert first.schemes == again.schemes != other.schemes
    assert all(np.array_equal(a, b) for a, b in zip(first.bins, again.bins))


def test_a_window_gets_its_mask_whatever_else_is_in_the_batch(world: Any) -> None:
    windows = [ws[i] for ws in world.data.train.values() for i in (0, 5, 9)]
    rng = np.random.default_rng(0)
    full = world.reader.batch(windows)
    expected = dict(
        zip(full.windows, zip(*(rows_of(m := draw_masks(full, world.channels, CONFIG, (7,)), full.sizes), m.schemes)))
    )
    for _ in range(5):
        some = world.reader.batch([windows[i] for i in rng.permutation(len(windows))[:5]])
        masks = draw_masks(some, world.channels, CONFIG, (7,))
        for window, rows, scheme in zip(some.windows, rows_of(masks, some.sizes), masks.schemes):
            assert scheme == expected[window][1]
            for here, there in zip(rows, expected[window][0]):
                bins = window.num_bins
                assert np.array_equal(here[:bins], there[:bins])


def test_a_window_drawn_twice_is_masked_in_two_ways(world: Any) -> None:
    window = next(iter(world.data.train.values()))[0]
    masks = draw_masks(world.reader.batch([window] * 20), world.channels, CONFIG, (0,), "within_neural")
    assert len({row.tobytes() for row in masks.bins.numpy()}) == 20


def test_schemes_are_drawn_as_often_as_the_config_says(world: Any) -> None:
    config = MaskingConfig(schemes={"neural": 3.0, "behavior": 1.0, "units": 0.0})
    batch = world.batch(20)
    drawn = [s for step in range(20) for s in draw_masks(batch, world.channels, config, (step,)).schemes]
    assert "units" not in drawn
    counts = np.array([drawn.count("neural"), drawn.count("behavior")])
    assert counts.sum() == len(drawn)
    assert stats.binomtest(int(counts[0]), len(drawn), 0.75).pvalue > 0.01


def test_collate_equals_a_naive_loop(world: Any) -> None:
    batch = world.batch(3)
    rng = np.random.default_rng(1)
    schemes = [sorted(SCHEMES)[i % len(SCHEMES)] for i in range(len(batch))]
    hidden = [
        SCHEMES[s](shape, rng, CONFIG) for s, shape in zip(schemes, window_shapes(batch, world.channels), strict=True)
    ]
    masks = collate(batch, hidden, schemes)
    spikes = [row for part in masks.spikes for row in part.numpy()]
    unscored = [row for part in masks.unscored for row in part.numpy()]
    for i, (window, h) in enumerate(zip(batch.windows, hidden)):
        for t in range(batch.valid.shape[1]):
            inside = t < window.num_bins
            for u in range(spikes[i].shape[1]):
                assert spikes[i][t, u] == (inside and (h.bins[t] or h.units[u]))
            assert bool(masks.bins[i, t]) == (inside and bool(h.bins[t]))
            assert masks.covariates[i, t].tolist() == (h.covariates[t].tolist() if inside else [False] * 6)
            assert masks.structure[i, t].tolist() == (h.structure[t].tolist() if inside else [False] * len(STRUCTURE))
        assert unscored[i].tolist() == h.unscored.tolist()
        assert bool(masks.spikes_predicted[i]) == h.spikes_predicted
        assert bool(masks.covariates_predicted[i]) == h.covariates_predicted


@pytest.mark.parametrize("schemes", [{"neurla": 1.0}, {}, {"neural": 0.0}, {"neural": 1.0, "units": -1.0}])
def test_schemes_that_cannot_be_drawn_are_refused(schemes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"masking\.schemes"):
        MaskingConfig(schemes=schemes)
