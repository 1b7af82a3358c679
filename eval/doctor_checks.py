"""What goes wrong in practice with one recording: a finding with its number, and the cure, where one is out of bounds.

The numbers are made in doctor_facts. What only shows between recordings (duplicates, leaking animals) is in doctor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_recipes.cleaning import PLAUSIBLE_HZ
from eval.doctor_alignment import Alignment
from eval.doctor_facts import DUPLICATE_S, REFRACTORY_S, Facts, inside_domain
from foundation.recording import Covariate, Recording

# Bounds of the findings. Each is a share unless it says otherwise.
SILENT_UNITS, SPARSE_UNITS = 0.05, 0.2
# Fewer spikes than this fall into one half of a session by chance, and teach nothing about a unit.
SPARSE_SPIKES = 12
DUPLICATES, VIOLATIONS = 0.001, 0.05
OUTSIDE_SPIKES = 0.01
OUTSIDE_SAMPLES = 0.2
COVERED = 0.8
# A trial this many times as long as the median one.
LONG_TRIAL = 20.0
TRIAL_S = (0.02, 600.0)
# Lags that no muscle, camera or stimulus explains, when nothing is left at zero lag.
LAG_S, AT_ZERO, SURE_Z = 0.35, 0.5, 15.0
DRIFT_S = 0.15
ELSEWHERE_Z = 20.0

CURES = {
    "units fall silent": "a probe that drifted, or a unit that was lost: raise the recipe's presence threshold, or end "
    "the domain where the recording ends",
    "units with hardly a spike": "set the recipe's lowest rate: such units cost rows and teach nothing",
    "spikes counted twice": "a sorter's duplicates, or one file merged twice: remove them in the recipe",
    "refractory violations": "multi-unit clusters: filter by the sorter's quality label, or keep and say so",
    "spikes outside of the domain": "no window reads them: widen the domain in the recipe, or check the spikes' clock",
    "implausible rates": "are times in milliseconds or samples? Give seconds; leave silent units out",
    "covariate never observed": "drop it in the recipe, or look at how it is read",
    "covariate constant": "there is nothing to learn from it: drop it, or look at how it is read",
    "covariate covers little of the domain": "fine if it was not measured there (sleep, lights off). Else check its "
    "clock; samples further apart than 0.25 s are not interpolated, so resample slow signals in the recipe",
    "covariate outside of the domain": "are its times in milliseconds, in samples or on another clock? Give seconds on "
    "the clock of the spikes",
    "no usable trial": "see the recipe's rule for `usable`; without one the session is in no split role",
    "trials outside of the domain": "they train on nothing: cut the trials or widen the domain, on one clock",
    "uneven trials": "a missed stop time: cap the trials in the recipe, or mark the long ones not usable",
    "implausible trials": "are trial times in milliseconds or samples? Give seconds",
    "behavior displaced from spikes": "see the page; shift the covariate's clock by this much if the camera or the "
    "acquisition started late",
    "behavior fits elsewhere": "the clocks start at different moments: shift by the lag that is named",
    "behavior drifts against spikes": "two clocks of different speed: fit the second to the first on shared pulses",
    "behavior unrelated to spikes": "the behavior of another session, or another clock? If the neurons are simply "
    "not of this task, ignore this",
}


@dataclass(frozen=True)
class Finding:
    """Something out of bounds: `check` names it (`CURES` has the cure), `text` has the number, `weight` its size."""

    check: str
    text: str
    weight: float = 1.0


def percent(share: float) -> str:
    """Such as "0.26 %", "44 %" or "100 %"."""
    if not np.isfinite(share):
        return "unknown"
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def _share(part: int, whole: int, what: str) -> str:
    return f"{part:,} of {whole:,} {what} ({percent(part / max(whole, 1))})"


def findings_of(recording: Recording, facts: Facts) -> list[Finding]:
    """What is out of bounds in one recording."""
    found = [*_spike_findings(facts), *_trial_findings(recording)]
    for name, covariate in recording.covariates.items():
        found += _covariate_findings(recording, covariate, facts.covariates[name][1])
    return found + alignment_findings(facts.alignments)


def _spike_findings(facts: Facts) -> list[Finding]:
    found = []
    sparse = facts.unit_spikes < SPARSE_SPIKES
    silent = facts.silent & ~sparse
    if silent.mean() > SILENT_UNITS:
        text = f"{_share(int(silent.sum()), len(silent), 'units')} without a spike for more than half of the session"
        found.append(Finding("units fall silent", text, float(silent.mean())))
    if sparse.mean() > SPARSE_UNITS:
        text = f"{_share(int(sparse.sum()), len(sparse), 'units')} with fewer than {SPARSE_SPIKES} spikes"
        found.append(Finding("units with hardly a spike", text, float(sparse.mean())))
    outside = facts.num_spikes - int(facts.unit_spikes.sum())
    if outside > OUTSIDE_SPIKES * facts.num_spikes:
        text = _share(outside, facts.num_spikes, "spikes")
        found.append(Finding("spikes outside of the domain", text, outside / facts.num_spikes))
    duplicates, violations = facts.duplicates, facts.violations
    # Trains without a refractory period have short intervals too: as many per millisecond at 0.05 as at 1 ms.
    chance = (violations - duplicates) / (REFRACTORY_S - DUPLICATE_S) * DUPLICATE_S
    if duplicates > max(DUPLICATES, 3 * chance):
        text = f"{percent(duplicates)} of the intervals within a unit are below 0.1 ms"
        found.append(Finding("spikes counted twice", text, duplicates))
    if violations > VIOLATIONS:
        text = f"{percent(violations)} of the intervals within a unit are below 1.5 ms"
        found.append(Finding("refractory violations", text, violations))
    mean = float(facts.rates_hz.mean())
    if not PLAUSIBLE_HZ[0] <= mean <= PLAUSIBLE_HZ[1]:
        text = f"{mean:.3g} Hz per unit, expected {PLAUSIBLE_HZ[0]:g} to {PLAUSIBLE_HZ[1]:g}"
        found.append(Finding("implausible rates", text, mean))
    return found


def _trial_findings(r: Recording) -> list[Finding]:
    if not len(r.trials):
        return []
    found = []
    usable = r.trials["usable"].to_numpy(bool)
    bounds = r.trials[["start_s", "stop_s"]].to_numpy(float)
    if not usable.any():
        found.append(Finding("no usable trial", f"0 of {len(usable):,} trials are usable"))
    out = ~inside_domain(bounds[:, 0], r.domain) | ~inside_domain(bounds.mean(axis=1), r.domain)
    if out[usable].any():
        text = _share(int(out[usable].sum()), int(usable.sum()), "usable trials")
        found.append(Finding("trials outside of the domain", text, float(out[usable].mean())))
    length = bounds[:, 1] - bounds[:, 0]
    middle = float(np.median(length))
    long = usable & (length > LONG_TRIAL * middle)
    if long.any():
        text = f"{_share(int(long.sum()), int(usable.sum()), 'usable trials')} are over {LONG_TRIAL:g} times as long "
        found.append(Finding("uneven trials", text + f"as the median {middle:.3g} s", float(length.max() / middle)))
    if not TRIAL_S[0] <= middle <= TRIAL_S[1]:
        text = f"median length {middle:.3g} s, expected {TRIAL_S[0]:g} to {TRIAL_S[1]:g}"
        found.append(Finding("implausible trials", text, middle))
    return found


def _covariate_findings(r: Recording, c: Covariate, covered: float) -> list[Finding]:
    name, event = c.spec.name, c.spec.kind == "event"
    if c.times is not None and len(c.times):
        span = (r.domain[0, 0] - 1.0, r.domain[-1, 1] + 1.0)
        outside = int(((c.times < span[0]) | (c.times > span[1])).sum())
        if outside > OUTSIDE_SAMPLES * len(c.times):
            text = f"{name}: {_share(outside, len(c.times), 'events' if event else 'samples')}"
            text += f", from {c.times[0]:.4g} to {c.times[-1]:.4g} s; the domain ends at {r.domain[-1, 1]:.4g} s"
            return [Finding("covariate outside of the domain", text, outside / len(c.times))]
    if not (len(c.times if event and c.times is not None else c.observed)) or (not event and not c.observed.any()):
        if c.times is None and not len(r.trials):
            return []
        text = f"{name}: no {'event' if event else 'observed value'}"
        return [Finding("covariate never observed", text)]
    if event:
        return []
    found = []
    values = c.values[c.observed]
    if (values == values[0]).all():
        what = f"is {np.array2string(values[0], precision=4)} in all {len(values):,} observed "
        text = f"{name}: {what}{'trials' if c.times is None else 'samples'}"
        found.append(Finding("covariate constant", text))
    if c.times is not None and covered < COVERED:
        text = f"{name}: observed in {percent(covered)} of the domain"
        found.append(Finding("covariate covers little of the domain", text, 1 - covered))
    return found


def alignment_findings(alignments: list[Alignment]) -> list[Finding]:
    """One finding per check, of the signal that is surest, with the number of others that agree."""
    found: dict[str, list[Alignment]] = {"elsewhere": [], "displaced": [], "drifts": []}
    tested = sorted((a for a in alignments if not a.periodic), key=lambda a: -a.z)
    for a in tested:
        sure = a.related and a.z >= SURE_Z and a.paired > 0.5
        early = a.signal == "trial start" and a.lag_s <= -LAG_S
        # Beside a behavior that is surer and in place, a displaced one may just be slow: licks come after the reward.
        in_place = any(b.kind == "behavior" and b.z > a.z and abs(b.lag_s) < LAG_S for b in tested)
        late = a.kind == "behavior" and abs(a.lag_s) >= (2 * LAG_S if in_place else LAG_S)
        if a.z_elsewhere >= max(ELSEWHERE_Z, 1.5 * a.z):
            found["elsewhere"].append(a)
        elif sure and a.at_zero < AT_ZERO and (early or late):
            found["displaced"].append(a)
        if sure and abs(a.drift_s) >= DRIFT_S:
            found["drifts"].append(a)
    findings = []
    if group := sorted(found["elsewhere"], key=lambda a: -a.z_elsewhere):
        a = group[0]
        text = (
            f"{a.signal}: best at a lag of {a.best_elsewhere_s:+.4g} s (z {a.z_elsewhere:.0f}; near 0 only {a.z:.1f})"
        )
        findings.append(Finding("behavior fits elsewhere", text + _others(group), a.z_elsewhere))
    if group := found["displaced"]:
        a = group[0]
        text = f"{a.signal}: spikes {'follow' if a.lag_s > 0 else 'precede'} it by {abs(a.lag_s):.2f} s "
        text += f"(z {a.z:.0f}; {percent(max(a.at_zero, 0))} of that at zero lag){_others(group)}"
        findings.append(Finding("behavior displaced from spikes", text, abs(a.lag_s)))
    if group := found["drifts"]:
        a = group[0]
        text = f"{a.signal}: the lag changes by {a.drift_s:+.2f} s from the first half of the session to the second"
        findings.append(Finding("behavior drifts against spikes", text + _others(group), abs(a.drift_s)))
    unrelated = any(a.kind == "behavior" for a in tested) and not any(a.related for a in tested)
    if unrelated and not found["elsewhere"]:
        a = tested[0]
        text = f"none of {len(tested)} signals; best {a.signal} (z {a.z:.1f}, {percent(a.p)} of the controls reach it)"
        findings.append(Finding("behavior unrelated to spikes", text))
    return findings


def _others(group: list[Alignment]) -> str:
    return f"; so in {len(group) - 1} more of its signals" if len(group) > 1 else ""
