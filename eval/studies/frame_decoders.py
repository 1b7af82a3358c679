"""Which frame of a movie was on the screen: kNN, naive Bayes, logistic and Lasso decoders, and scores in frames.

Every decoder is fitted on the fit showings, picks its setting by the validation showings, is fitted again on both with
that setting, and sees the test showing once. The input may be activity or any latent of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, LogisticRegression

from eval.statistics import session_interval

WITHIN_FRAMES = 30  # one second
Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, float], Predict]


@dataclass(frozen=True)
class Showings:
    """Showings of one movie by role; R, V and one showing of F frames, D numbers a frame.

    Attributes:
        fit: `(R, F, D)`.
        validation: `(V, F, D)`.
        test: `(1, F, D)`.
    """

    fit: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> Showings:
        """The same of `change(showings)`, a function of an array `(R, F, D)` that keeps R and F."""
        return Showings(change(self.fit), change(self.validation), change(self.test))

    @property
    def train(self) -> np.ndarray:
        """`(R + V, F, D)`, what a decoder with its setting chosen is fitted on."""
        return np.concatenate([self.fit, self.validation])


@dataclass(frozen=True)
class Decoded:
    """What a decoder said.

    Attributes:
        predicted: `(F,)` frame of each test frame; real numbers from a regression.
        train_exact: Share of exact frames in the showings it was fitted on; NaN for kNN, which finds itself.
        setting: What was chosen on the validation showings, in words.
        validation_exact: Share of validation frames that are exact, of the chosen setting.
    """

    predicted: np.ndarray
    train_exact: float
    setting: str
    validation_exact: float


def flat(showings: np.ndarray) -> np.ndarray:
    """`(R*F, D)` of `(R, F, D)`."""
    return showings.reshape(-1, showings.shape[2])


def frame_labels(showings: np.ndarray) -> np.ndarray:
    """`(R*F,)` frame of every row of `flat(showings)`."""
    return np.tile(np.arange(showings.shape[1]), len(showings))


def frame_scores(predicted: np.ndarray, frame: np.ndarray, num_frames: int) -> dict[str, float]:
    """Scores of predicted frames `(n,)` in the order of the movie.

    Args:
        predicted: Frames; a regression's numbers are rounded, and held to the movie, for the two accuracies only.
        frame: The true ones.
        num_frames: F.

    Returns:
        `exact` and `within_1s` (30 frames or fewer off), shares; `low` and `high`, the 95 % bootstrap interval of
        `exact` over seconds of the movie, as neighboring frames are no independent samples; `mae` and `rmse`, frames;
        `r2` of the frame number.
    """
    whole = np.clip(np.round(predicted), 0, num_frames - 1)
    right, error = whole == frame, np.asarray(predicted, float) - frame
    seconds = [right[k : k + WITHIN_FRAMES].mean() for k in range(0, len(right), WITHIN_FRAMES)]
    interval = session_interval(seconds, draws=2000)
    return {
        "exact": float(right.mean()),
        "low": interval.low,
        "high": interval.high,
        "within_1s": float((np.abs(whole - frame) <= WITHIN_FRAMES).mean()),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": float(1 - (error**2).sum() / ((frame - frame.mean()) ** 2).sum()),
    }


def chance(num_frames: int) -> dict[str, float]:
    """Expected `exact`, `within_1s` and `mae` of a guess drawn uniformly from the frames; 1/F, and about F/3 frames."""
    off = np.abs(np.subtract.outer(np.arange(num_frames), np.arange(num_frames)))
    return {
        "exact": 1 / num_frames,
        "within_1s": float((off <= WITHIN_FRAMES).mean()),
        "mae": float((num_frames**2 - 1) / (3 * num_frames)),
    }


def decode_knn(showings: Showings, neighbors: Sequence[int]) -> Decoded:
    """Vote of the k nearest rows, by Euclidean or by cosine distance; of equal votes the nearest row's wins.

    Args:
        showings: Activity or latents.
        neighbors: k to choose from.
    """
    most, frame, num_frames = max(neighbors), frame_labels(showings.validation), showings.fit.shape[1]
    scores: dict[tuple[int, str], dict[str, float]] = {}
    for metric in ("euclidean", "cosine"):
        near = _nearest(showings.fit, showings.validation, metric, most)
        scores |= {(k, metric): frame_scores(_vote(near[:, :k]), frame, num_frames) for k in neighbors}
    k, metric = best = _best(scores)
    predicted = _vote(_nearest(showings.train, showings.test, metric, k))
    return Decoded(predicted, np.nan, f"k = {k}, {metric}", scores[best]["exact"])


def decode_bayes(showings: Showings, smoothing: Sequence[float]) -> Decoded:
    """Poisson naive Bayes with a uniform prior over frames, after Zhang et al. 1998, eq. 36.

    The rate of a unit in a frame is its mean over showings, smoothed over frames, with the unit's mean rate as half a
    showing of prior.

    Args:
        showings: Spike counts in a frame, or in a window of frames.
        smoothing: Standard deviations (frames) of the filter over frames to choose from; 0 for none.
    """

    def fit(train: np.ndarray, width: float) -> Predict:
        mean = train.mean(axis=0, dtype=float)
        smooth = smoothed(mean, width)
        rate = (len(train) * smooth + 0.5 * mean.mean(axis=0)) / (len(train) + 0.5) + 1e-6
        log_rate, total = np.log(rate).T, rate.sum(axis=1)
        return lambda rows: (rows @ log_rate - total).argmax(axis=1)

    return _decode(showings, fit, smoothing, "smoothing {:g} frames")


def decode_logistic(showings: Showings, costs: Sequence[float], iterations: int) -> Decoded:
    """Multinomial logistic regression, a class per frame, on z-scored columns; scikit-learn's L-BFGS and C.

    Args:
        showings: Activity or latents.
        costs: C to choose from.
        iterations: At most this many of L-BFGS, from zero for each C; a low number regularizes as well.
    """

    def fit(train: np.ndarray, cost: float) -> Predict:
        mean, scale = _mean_and_scale(train)
        model = LogisticRegression(C=cost, max_iter=iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(((flat(train) - mean) / scale).astype(np.float32), frame_labels(train))
        return lambda rows: model.predict(((rows - mean) / scale).astype(np.float32))

    return _decode(showings, fit, costs, f"C = {{:g}}, {iterations} iterations at most")


def decode_lasso(showings: Showings, alphas: Sequence[float]) -> Decoded:
    """Lasso regression of the frame number on z-scored columns; alpha chosen by squared error.

    Args:
        showings: Activity or latents.
        alphas: Penalties to choose from, as in scikit-learn.
    """

    def fit(train: np.ndarray, alpha: float) -> Predict:
        mean, scale = _mean_and_scale(train)
        model = Lasso(alpha=alpha, precompute=True, max_iter=2000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit((flat(train) - mean) / scale, frame_labels(train))
        return lambda rows: model.predict((rows - mean) / scale)

    return _decode(showings, fit, alphas, "alpha = {:g}", by="rmse")


def leave_one_out(activity: np.ndarray, decode: Callable[[Showings], Decoded], num_validation: int) -> list[Decoded]:
    """A decoder with each showing as the test in turn, the showings before it (cyclically) as validation.

    Args:
        activity: `(R, F, D)`, every showing.
        decode: From showings by role.
        num_validation: V.
    """
    turns = [np.roll(activity, -k - 1, axis=0) for k in range(len(activity))]
    return [decode(by_role(turned, num_validation)) for turned in turns]


def by_role(activity: np.ndarray, num_validation: int) -> Showings:
    """The last showing of `(R, F, D)` is the test, those before it validation, the rest fit.

    Raises:
        ValueError: Too few showings.
    """
    if not 0 < num_validation < len(activity) - 1:
        raise ValueError(
            f"{num_validation} validation showings of {len(activity)}, expected at least one, and one to fit beside "
            "the last, which is the test"
        )
    fit = len(activity) - num_validation - 1
    return Showings(activity[:fit], activity[fit:-1], activity[-1:])


def smoothed(frames: np.ndarray, width: float) -> np.ndarray:
    """`(F, D)` filtered over frames by a Gaussian of that standard deviation; 0 for none."""
    return gaussian_filter1d(frames, width, axis=0, mode="nearest") if width else frames


def in_window(showings: np.ndarray, frames: int) -> np.ndarray:
    """Sums over a window of frames, half before and half from the frame on, cut at the ends of a showing.

    Args:
        showings: `(R, F, D)`.
        frames: Width; 10 are the frames t-5 to t+4, those that an encoder of receptive field 10 sees.
    """
    total = np.concatenate([np.zeros_like(showings[:, :1]), np.cumsum(showings, axis=1, dtype=float)], axis=1)
    at = np.arange(showings.shape[1])
    first, stop = np.maximum(at - frames // 2, 0), np.minimum(at + frames - frames // 2, showings.shape[1])
    return (total[:, stop] - total[:, first]).astype(np.float32)


def _mean_and_scale(showings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = flat(showings)
    mean, scale = rows.mean(axis=0, dtype=float), rows.std(axis=0, dtype=float)
    return mean, np.where(scale > 0, scale, 1.0)


def _nearest(train: np.ndarray, asked: np.ndarray, metric: str, most: int) -> np.ndarray:
    """Frames `(n, most)` of the rows of `train` nearest to each row of `asked`, nearest first."""
    rows, label = _for_distance(flat(train), metric), frame_labels(train)
    size, most = (rows**2).sum(axis=1), min(most, len(rows))
    found = []
    for showing in asked:
        far = size - 2 * _for_distance(showing, metric) @ rows.T
        near = np.argpartition(far, most - 1, axis=1)[:, :most]
        order = np.argsort(np.take_along_axis(far, near, axis=1), axis=1, kind="stable")
        found.append(label[np.take_along_axis(near, order, axis=1)])
    return np.concatenate(found)


def _for_distance(rows: np.ndarray, metric: str) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9) if metric == "cosine" else rows


def _vote(frames: np.ndarray) -> np.ndarray:
    """`(n,)` the most frequent of `(n, k)` frames; of equals the one that comes first."""
    same = (frames[:, :, None] == frames[:, None, :]).sum(axis=2)
    return frames[np.arange(len(frames)), same.argmax(axis=1)]


def _decode(showings: Showings, fit: Fit, grid: Sequence[float], words: str, by: str = "exact") -> Decoded:
    """Fit each setting, take the best on validation, fit that again on fit and validation, decode the test showing."""
    frame, num_frames = frame_labels(showings.validation), showings.fit.shape[1]
    scores = {s: frame_scores(fit(showings.fit, s)(flat(showings.validation)), frame, num_frames) for s in grid}
    best = _best(scores, by)
    train = showings.train
    predict = fit(train, best)
    train_exact = frame_scores(predict(flat(train)), frame_labels(train), num_frames)["exact"]
    return Decoded(predict(flat(showings.test)), train_exact, words.format(best), scores[best]["exact"])


def _best(scores: Mapping[Any, dict[str, float]], by: str = "exact") -> Any:
    """The setting with most exact frames, of equals the lower MAE; with `by="rmse"` that of the lower RMSE."""
    return min(scores, key=lambda s: (-scores[s]["exact"], scores[s]["mae"]) if by == "exact" else (scores[s][by],))
