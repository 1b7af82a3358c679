"""The report page: content, missing pieces, hostile text, and what a browser makes of it. Numbers here are invented."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.details import Details
from eval.examples import (
    ConfusionExample,
    EmbeddingExample,
    Examples,
    TrialExample,
    read_examples,
    write_examples,
)
from eval.report import write_report
from eval.report_tables import compare
from eval.results import ResultRow, read_results, write_results

SESSIONS = {"T249": ["T249_a", "T249_b"], "T264": ["T264_a", "T264_b", "T264_c"], "X046": ["X046_a", "X046_b"]}
HOSTILE = "<script>alert('x')</script>&\"</p>"

# Task: metric, convention, then (model, kind, level, gain per doubling of the trials).
TASKS = {
    "encode": (
        ("bps", "d2"),
        "Poisson log-likelihood gain over the train mean, pooled over units, divided by spikes and ln 2.",
        [
            ("foundation/adapter", "model", 0.086),
            ("foundation/full", "model", 0.083),
            ("foundation/scratch", "model", 0.073),
            ("GLM E2", "baseline", 0.075),
            ("choice PSTH", "baseline", 0.041),
            ("drift only", "null", 0.022),
        ],
    ),
    "cosmooth": (
        ("bps",),
        "Ten folds of held-out units, Poisson, pooled over units, null = train mean.",
        [
            ("foundation/adapter", "model", 0.095),
            ("foundation/scratch", "model", 0.096),
            ("ridge Poisson, 7 lags", "baseline", 0.1005),
            ("GLM E2 alone", "null", 0.075),
        ],
    ),
    "choice": (
        ("auc", "cross_entropy_bits"),
        "Area under the ROC curve by Mann-Whitney, ties count one half, all test trials of a session.",
        [
            ("foundation/adapter", "model", 0.93),
            ("foundation/scratch", "model", 0.90),
            ("logistic on square-root rates", "baseline", 0.928),
            ("stimulus null", "null", 0.897),
        ],
    ),
}
NOISE = {"bps": 0.004, "d2": 0.002, "auc": 0.012, "cross_entropy_bits": 0.03}


def make_rows(rng: np.random.Generator, sessions: dict[str, list[str]] = SESSIONS, seeds: int = 3) -> list[ResultRow]:
    """Plausible rows: session effects shared by the models, few-shot scores that rise with the trials, three seeds."""
    rows = []
    for task, (metrics, convention, models) in TASKS.items():
        for metric in metrics:
            lower = metric == "cross_entropy_bits"
            for subject, session in [(a, s) for a, names in sessions.items() for s in names]:
                offset = NOISE[metric] * 3 * rng.normal()
                tracks = [("interleaved", 0, 0), ("temporal", 0, 0)]
                tracks += [("interleaved", k, draw) for k in (16, 32, 64, 128) for draw in range(2)]
                for split, trials, draw in tracks:
                    share = 0.7 if split == "temporal" else 1 - 0.5 * (16 / trials) ** 0.6 if trials else 1
                    score = {}
                    for model, kind, level in models:
                        few = share + 0.25 * (1 - share) if "adapter" in model or "full" in model else share
                        mean = {"auc": 0.5 + (level - 0.5) * few, "cross_entropy_bits": 1.2 - few * level / 1.3}
                        value = mean.get(metric, level * few * (0.5 if metric == "d2" else 1)) + offset
                        for seed in range(seeds if kind == "model" else 1):
                            score[model, kind, seed] = value + NOISE[metric] / 2 * rng.normal()
                    best = next(m for m, kind, _ in models if kind == "baseline")
                    null = next(m for m, kind, _ in models if kind == "null")
                    for (model, kind, seed), value in score.items():
                        beside = {
                            "baseline": best,
                            "baseline_value": score[best, "baseline", 0],
                            "null": null,
                            "null_value": score[null, "null", 0],
                        }
                        rows.append(
                            ResultRow(
                                dataset="luo2025",
                                subject=subject,
                                session=session,
                                split=split,
                                task=task,
                                model=model,
                                kind=kind,
                                train_trials=trials,
                                draw=draw,
                                seed=seed,
                                metric=metric,
                                convention=convention,
                                value=value,
                                n=4000,
                                higher_is_better=not lower,
                                **(beside if kind == "model" else {}),
                            )
                        )
    return rows


def make_region_rows(rng: np.random.Generator) -> list[ResultRow]:
    """Regions: six-way pooled, and leave one rat out within a group, with leak meters."""
    rows = []
    models = [("foundation/adapter", "model", 0.55), ("random forest", "baseline", 0.46), ("rate only", "null", 0.32)]
    models += [("labels permuted within session (95th percentile)", "null", 0.41), ("array index only", "null", 0.5)]
    for task, animals in (("region six-way, pooled", ["all"]), ("region dStr/vStr/M1", ["T219", "T223", "T264"])):
        for animal in animals:
            for model, kind, level in models:
                for seed in range(3 if kind == "model" else 1):
                    extra = {"baseline": "random forest", "baseline_value": 0.46, "null": "array index only"}
                    rows.append(
                        ResultRow(
                            "luo2025",
                            animal,
                            "pooled" if animal == "all" else animal,
                            "interleaved",
                            task,
                            model,
                            kind,
                            0,
                            0,
                            seed,
                            "macro_f1",
                            "Mean F1 over the classes present in the truth, units of animals left out.",
                            level + 0.03 * rng.normal(),
                            300,
                            **({**extra, "null_value": 0.5} if kind == "model" else {}),
                        )
                    )
    return rows


def make_examples(rng: np.random.Generator) -> Examples:
    """Poisson counts from rates that ramp with the choice, trials of unequal length, a spiral of states."""
    trials = []
    for subject, session in (("T249", "T249_a"), ("X046", "X046_a")):
        num, bins, bin_s = 60, 50, 0.02
        length = rng.integers(10, bins + 1, num)
        choice = rng.integers(0, 2, num)
        time = np.arange(bins) * bin_s
        base, slope = rng.uniform(4, 25, 6), rng.uniform(-12, 25, 6)
        hz = np.maximum(base + slope * time[:, None] * (2 * choice[:, None, None] - 1), 0.5)
        past = np.arange(bins) >= length[:, None]
        counts = np.where(past[..., None], np.nan, rng.poisson(hz * bin_s))
        rates = np.where(past[..., None], np.nan, hz * bin_s * rng.uniform(0.9, 1.1, 6))
        evidence = np.where(
            past, np.nan, np.cumsum(rng.normal(0.25 * (2 * choice[:, None] - 1), 1, (num, bins)), axis=1)
        )
        decoded = 0.7 * evidence + rng.normal(0, 0.7, evidence.shape)
        names = [f"unit {k}" for k in range(5)] + [HOSTILE]
        labels = ["right" if c else "left" for c in choice]
        traces = {"evidence (clicks)": (evidence, decoded)}
        trials.append(TrialExample(session, subject, "foundation/adapter", bin_s, names, labels, counts, rates, traces))
    t = rng.uniform(0, 1, 4000)
    arm = rng.integers(0, 3, 4000)
    angle = 2 * np.pi * (arm / 3 + 0.2 * t)
    points = np.stack([t * np.cos(angle), t * np.sin(angle), t], axis=1) + 0.05 * rng.normal(size=(4000, 3))
    labels = {
        "time in trial (s)": t,
        "choice": np.array(["left", "right"])[arm % 2],
        "animal": np.array(["T249", "T264", "X046"])[arm],
    }
    regions = ["M1", "dStr", "vStr"]
    confusions = [ConfusionExample("dStr/vStr/M1, one rat left out", regions, rng.integers(5, 60, (3, 3)))]
    return Examples(trials, [EmbeddingExample("trunk states, 3 principal components", points, labels)], confusions)


def make_failures(rng: np.random.Generator) -> list[TrialExample]:
    """The first trials once more, with a baseline beside the model."""
    trials = make_examples(rng).trials
    return [
        replace(
            t,
            note=note,
            units=t.units[4:],
            counts=t.counts[..., 4:],
            rates=t.rates[..., 4:],
            baseline="GLM E2",
            baseline_rates=0.8 * t.rates[..., 4:],
            traces={},
        )
        for t, note in zip(trials, ("worst units", "worst session"))
    ]


def make_details(rng: np.random.Generator) -> Details:
    """Forty units a session, of which the last is far below its baseline; calibrated choices; two conventions."""
    about = [("luo2025", animal, session, "interleaved") for animal, names in SESSIONS.items() for session in names]
    names = ["dataset", "subject", "session", "split"]
    units, bins, others, tops, pairs = [], [], [], [], []
    for place in about:
        head = {**dict(zip(names, place)), "task": "encode"}
        low = np.where(np.arange(40) == 39, -0.5, 0.01) + rng.normal(0, 1e-3, 40)
        columns = {"unit": np.arange(40), "unit_id": [f"{place[2]}/{k}{HOSTILE}" for k in range(40)], "region": "M1"}
        columns |= {"spikes": 400, "bps": 0.1 + low, "baseline": "GLM E2", "baseline_bps": 0.1}
        units.append(pd.DataFrame({**head, "model": "foundation/adapter", "seed": 0, **columns}))
        for kind, model in (("model", "foundation/adapter"), ("baseline", "GLM E2"), ("baseline", "ridge")):
            p = (np.arange(10) + 0.5) / 10
            line = {**head, "model": model, "kind": kind, "seed": 0}
            if model != "ridge":
                observed = rng.binomial(20, p) / 20
                curve = {"predicted": p, "observed": observed, "number": 20}
                bins.append(pd.DataFrame({**line, "task": "choice", **curve}))
            if model != "ridge" or place[2] == "X046_b":
                table = {"name": ["bps, pooled, train null", "bps, unit median, test null"], "value": [0.086, -1e-6]}
                others.append(pd.DataFrame({**line, **table, "num_units": 40, "meaning": "Bits & pieces"}))
        values = {"metric": ["psth_r2", "bps"], "value": [0.4, 0.1], "num_units": 40}
        tops.append(pd.DataFrame({**head, **values}))
        shift = 0.02 if place[1] == "X046" else -0.02
        for seed in (0, 1):
            gain = {"difference": shift, "low": shift - 0.015, "high": shift + 0.015, "blocks": 9 + len(pairs) // 2}
            line = {**head, "model": "foundation/adapter", "seed": seed, "baseline": "GLM_E2", "metric": "bps"}
            pairs.append(pd.DataFrame({**line, **gain}, index=[0]))
    return Details(*(pd.concat(tables, ignore_index=True) for tables in (units, bins, others, tops, pairs)))


def make_metrics(path: Path, rng: np.random.Generator, steps: int = 3000) -> None:
    lines, floor = [], rng.uniform(0.8, 1.0)
    for step in range(1, steps + 1, 5):
        loss = floor + np.exp(-step / 600)
        entry = {"step": step, "split": "train", "loss": loss + 0.05 * rng.normal(), "spikes": 0.5 + 0.4 * loss}
        lines.append({**entry, "lr": 1e-3 * min(1, step / 200), "windows_per_s": 40 + rng.normal()})
        if step % 50 == 1:
            terms = {"spikes": 0.5 + 0.4 * loss, "choice": 0.3 * loss, "evidence": 0.2 * loss, "infonce": 0.6 * loss}
            lines.append({"step": step, "split": "val", "loss": loss + 0.03, **terms})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 30', encoding="utf-8")


PROVENANCE = {
    "model": "foundation, width 64, 2 layers",
    "parameters": 812_345,
    "data": "luo2025, rat Neuropixels, Poisson clicks",
    "pretraining_subjects": ["T176", "T219", "T223", "T224", "T240", "X062"],
    "held_out_subjects": list(SESSIONS),
    "seeds": [0, 1, 2],
    "manifest_sha256": "9f" * 32,
    "versions": {"foundation": "0.1.0", "torch": "2.9.0"},
    "licences": {"luo2025": "Apache-2.0"},
    "note": HOSTILE,
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole fake run and its page."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("report")
    make_metrics(folder / "run" / "metrics.jsonl", rng)
    for animal in SESSIONS:
        make_metrics(folder / "run" / animal / "metrics.jsonl", rng, steps=400)
    (folder / "run" / "config.yaml").write_text("trunk:\n  width: 64   # <wide>\n", encoding="utf-8")
    write_results(folder / "results", make_rows(rng) + make_region_rows(rng), PROVENANCE)
    write_examples(folder / "results", replace(make_examples(rng), failures=make_failures(rng)))
    make_details(rng).write(folder / "results")
    return write_report(folder / "run", folder / "results", folder / "page" / "report.html")


class Page(HTMLParser):
    """What a parser sees of the page: tags with attributes, and the text outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "link", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.pieces))


def figures(path: Path) -> list[list[dict]]:
    """The variants of every figure on the page."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', path.read_text(encoding="utf-8"), re.S)
    return [json.loads(text) for text in found]


def test_page_is_well_formed_and_loads_nothing(full: Path) -> None:
    page = Page(full)
    assert not page.open
    for tag, attributes in page.tags:
        assert "src" not in attributes, tag
        assert tag != "link"
        assert (attributes.get("href") or "#").startswith("#")
    assert sum(tag == "script" and not attributes for tag, attributes in page.tags) == 3  # errors, plotly, drawing
    assert full.stat().st_size < 6.5e6


def test_page_says_what_a_reader_needs(full: Path) -> None:
    text = Page(full).text
    for expected in (
        "held-out animals T249, T264, X046",
        "7 sessions",
        "GLM E2",
        "temporal, all trials",
        "interleaved, 16 trials",
        "Few trials",
        "SEM over seeds",
        "Poisson log-likelihood gain over the train mean",
        "array index only",
        "9f" * 32,
        "Apache-2.0",
        "width: 64 # <wide>",
        "torch: 2.9.0",
        "812,345",
    ):
        assert expected in text, expected


def test_verdicts_follow_from_the_rows(full: Path) -> None:
    """The generator puts encoding well above its baseline and co-smoothing below; the words must say so."""
    text = Page(full).text
    encode = text[text.index("foundation/adapter reaches") :]
    assert "It beats the baseline by the rule of the protocol" in encode[:300]
    assert "A miss:" in text[text.index("Co-smoothing: some neurons from the others (luo2025)") :][:600]
    total, claims, above, none, below = map(
        int,
        re.search(
            r"Of (\d+) comparisons.*?allows, (\d+) meet the claim rule, (\d+) are above without meeting it, "
            r"(\d+) show no difference, and (\d+) are below",
            text,
        ).groups(),
    )
    # encode 2 models, cosmooth and choice 1 each, in 2 splits and 4 few-shot sizes; two region tasks.
    assert total == claims + above + none + below == 4 * 6 + 2
    assert claims > 0
    assert below > 0


def test_what_stands_behind_the_scores_is_shown(full: Path) -> None:
    text = Page(full).text
    for expected in ("Calibration", "Noise ceilings", "The same predictions under other conventions"):
        assert text.count(expected) == 1, expected
    assert "Of 6 sessions with 10 blocks or more the interval lies above 0 in 2, below in 4;" in text
    assert "GLM E2 +0.0200 [+0.0050, +0.0350] 14" in text
    failures = text[text.index("Where the model fails") :]
    # The last unit of each session is below, and outweighs the others: 39 * .01 - .5 < 0.
    assert "7 of 280 units and 7 of 7 sessions are below the baseline" in failures
    assert failures.count("/39<script>") == 7
    assert "oracle of condition and time" in text
    assert re.search(r"bps, unit median, test null Bits & pieces 40 0\.0000 0\.0000", text)
    figure = next(v for v in figures(full) if "predicted probability" in json.dumps(v))[0]
    names = [trace["name"] for trace in figure["data"] if trace.get("showlegend") is None and "name" in trace]
    assert names == ["foundation/adapter", "strongest baseline"]
    rasters = next(v for v in figures(full) if len(v[0]["data"]) == 3 and v[0]["data"][0]["type"] == "heatmap")
    model, baseline = rasters[0]["data"][1:]
    assert (model["zmin"], model["zmax"]) == (baseline["zmin"], baseline["zmax"])


def test_seeds_have_a_standard_error(tmp_path: Path) -> None:
    rows = [r for r in make_rows(np.random.default_rng(5)) if (r.task, r.split) == ("encode", "interleaved")]
    rows = [r for r in rows if not r.train_trials and r.metric == "bps"]
    write_results(tmp_path, rows, {})
    text = Page(write_report(tmp_path, tmp_path, tmp_path / "r.html")).text
    means = [np.mean([r.value for r in rows if (r.model, r.seed) == ("foundation/adapter", k)]) for k in range(3)]
    line = text[text.index("foundation/adapter model") :][:200]
    assert f"7 3 ± {np.std(means, ddof=1) / np.sqrt(3):.4f}" in line


def test_a_variant_stands_beside_its_own_twin_from_scratch(tmp_path: Path) -> None:
    rows = [r for r in make_rows(np.random.default_rng(5)) if (r.task, r.split) == ("encode", "interleaved")]
    rows = [r for r in rows if not r.train_trials and r.metric == "bps" and r.model != "foundation/full"]
    level = {"foundation/adapter": 0.2, "foundation/scratch": 0.1}
    rows += [
        replace(r, model=f"{r.model}, GLM on states", value=r.value + level[r.model]) for r in rows if r.kind == "model"
    ]
    write_results(tmp_path, rows, {})
    table, _ = read_results(tmp_path)
    found = compare(table, "foundation/adapter, GLM on states", "scratch")
    plain = compare(table, "foundation/adapter", "scratch")
    assert found.against == "foundation/scratch, GLM on states"
    assert found.summary.sessions.mean == pytest.approx(plain.summary.sessions.mean + 0.1)
    assert compare(table, "foundation/scratch, GLM on states", "scratch") is None
    assert "Of 2 comparisons" in Page(write_report(tmp_path, tmp_path, tmp_path / "r.html")).text


def test_baselines_are_named_in_words_and_models_as_they_are(tmp_path: Path) -> None:
    rows = [r for r in make_rows(np.random.default_rng(5), seeds=1) if r.task == "cosmooth" and not r.train_trials]
    named = {"ridge Poisson, 7 lags": "neurons_on_glm", "foundation/adapter": "my_run/adapter"}
    rows = [replace(r, model=named.get(r.model, r.model), baseline=named.get(r.baseline, r.baseline)) for r in rows]
    write_results(tmp_path, rows, {})
    text = Page(write_report(tmp_path, tmp_path, tmp_path / "r.html")).text
    assert "my_run/adapter reaches" in text
    assert "neurons on glm" in text
    assert "neurons_on_glm" not in text


def test_scores_at_single_times_are_a_curve_and_no_tables(tmp_path: Path) -> None:
    rows = [
        r for r in make_rows(np.random.default_rng(5)) if (r.task, r.split, r.metric) == ("choice", "temporal", "auc")
    ]
    rows = [replace(r, task="choice_t") for r in rows]
    early = [replace(r, metric="auc_100ms", value=r.value - 0.2) for r in rows]
    late = [replace(r, metric="auc_200ms", value=r.value - 0.1) for r in rows]
    write_results(tmp_path, rows + early + late, {})
    page = write_report(tmp_path, tmp_path, tmp_path / "r.html")
    text = Page(page).text
    assert "In the course of a trial" in text
    assert "Other metrics" not in text
    found = [v[0] for v in figures(page) if "time since the trial began" in json.dumps(v)]
    assert len(found) == 1
    curve = next(trace for trace in found[0]["data"] if trace["name"] == "foundation/adapter")
    mean = {
        session: np.mean([r.value for r in rows if (r.model, r.session) == ("foundation/adapter", session)])
        for session in {r.session for r in rows}
    }
    expected = np.mean(list(mean.values())) - np.array([0.2, 0.1])
    y = curve["y"]
    values = np.frombuffer(base64.b64decode(y["bdata"]), y["dtype"]) if isinstance(y, dict) else y
    np.testing.assert_allclose(values, expected)
    assert found[0]["layout"]["xaxis"]["ticktext"] == ["100", "200"]


def test_printed_mean_is_the_mean_of_the_rows(tmp_path: Path) -> None:
    rows = [r for r in make_rows(np.random.default_rng(3)) if r.task == "encode" and not r.train_trials]
    write_results(tmp_path, rows, {})
    text = Page(write_report(tmp_path, tmp_path, tmp_path / "r.html")).text
    wanted = [
        r
        for r in rows
        if (r.task, r.model, r.metric, r.split, r.train_trials)
        == ("encode", "foundation/adapter", "bps", "interleaved", 0)
    ]
    names = {r.session for r in wanted}
    mean = np.mean([np.mean([r.value for r in wanted if r.session == s]) for s in names])
    gain = np.mean([np.mean([r.value - r.baseline_value for r in wanted if r.session == s]) for s in names])
    assert f"foundation/adapter reaches {mean:.4f} bits/spike" in text
    assert f"{gain:+.4f}" in text


def test_hostile_text_stays_text(full: Path) -> None:
    page, raw = Page(full), full.read_text(encoding="utf-8")
    assert "<script>alert" not in raw
    assert HOSTILE in page.text.replace("  ", " ")


def test_figures_have_traces_axis_titles_and_few_points(full: Path) -> None:
    every = figures(full)
    assert len(every) >= 12
    for variants in every:
        for figure in variants:
            assert figure["data"]
            layout, kinds = figure["layout"], {trace["type"] for trace in figure["data"]}
            if "scatter3d" in kinds:
                assert all(layout["scene"][f"{axis}axis"]["title"]["text"] for axis in "xyz")
            else:
                assert any(key.startswith("xaxis") and "title" in layout[key] for key in layout)
                assert any(
                    key.startswith("yaxis") and ("title" in layout[key] or "ticktext" in layout[key]) for key in layout
                )
            for trace in figure["data"]:
                assert _num_points(trace) <= 2100, kinds


def _num_points(trace: dict) -> int:
    value = trace.get("z" if trace["type"] == "heatmap" else "x", [])
    if isinstance(value, dict):
        return len(value["bdata"]) * 3 // 4 // int(value["dtype"][1:])
    return len(value)


def test_missing_pieces_are_said_and_do_not_crash(tmp_path: Path) -> None:
    one = [r for r in make_rows(np.random.default_rng(1), {"T249": ["T249_a"]}, seeds=1) if r.train_trials == 0]
    bare = [replace(r, baseline="", baseline_value=None, null="", null_value=None) for r in one if r.task == "choice"]
    write_results(tmp_path / "results", bare, {})
    page = Page(write_report(tmp_path / "nothing", tmp_path / "results", tmp_path / "report.html"))
    for expected in (
        "No model row names a baseline",
        "no region rows",
        "No example trials",
        "No decoded traces",
        "no unit or session can be called worst",
        "No embedding",
        "no metrics.jsonl",
        "No few-shot rows",
        "no config.yaml",
    ):
        assert expected in re.sub(r"\s+", " ", page.text), expected
    assert not page.open


def test_one_session_never_makes_a_claim(tmp_path: Path) -> None:
    rows = [r for r in make_rows(np.random.default_rng(1), {"T249": ["T249_a"]}) if r.task == "encode"]
    write_results(tmp_path, rows, {"forced": ["T249 was seen"]})
    text = Page(write_report(tmp_path, tmp_path, tmp_path / "report.html")).text
    assert re.search(r"allows, 0 meet the claim rule, 0 are above", text)
    assert "a single value has no interval" in text
    assert "Forced evaluation. Rules were broken: T249 was seen" in text


def test_examples_round_trip(tmp_path: Path) -> None:
    examples = make_examples(np.random.default_rng(2))
    write_examples(tmp_path, examples)
    back = read_examples(tmp_path)
    for first, second in zip(examples.trials, back.trials, strict=True):
        assert (first.session, first.subject, first.units, first.condition) == (
            second.session,
            second.subject,
            second.units,
            second.condition,
        )
        np.testing.assert_allclose(first.rates, second.rates, rtol=1e-6)
        np.testing.assert_allclose(first.traces["evidence (clicks)"], second.traces["evidence (clicks)"], rtol=1e-6)
    np.testing.assert_array_equal(back.embeddings[0].labels["animal"], examples.embeddings[0].labels["animal"])
    np.testing.assert_array_equal(back.confusions[0].counts, examples.confusions[0].counts)
    failing = make_failures(np.random.default_rng(2))
    write_examples(tmp_path, Examples(failures=failing))
    for first, second in zip(failing, read_examples(tmp_path).failures, strict=True):
        assert (first.note, first.baseline, first.units) == (second.note, second.baseline, second.units)
        np.testing.assert_allclose(first.baseline_rates, second.baseline_rates, rtol=1e-6)
    assert read_examples(tmp_path / "none") == Examples()
    (tmp_path / "examples.npz").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match=r"not an \.npz file"):
        read_examples(tmp_path)


def test_examples_that_do_not_fit_are_refused() -> None:
    counts = np.zeros((3, 4, 2))
    with pytest.raises(ValueError, match="R = 2 conditions"):
        TrialExample("s", "a", "m", 0.02, ["u", "v"], ["x", "y"], counts, counts)
    with pytest.raises(ValueError, match="without data"):
        TrialExample("s", "a", "m", 0.02, ["u"], [], np.zeros((0, 4, 1)), np.zeros((0, 4, 1)))
    one = ("s", "a", "m", 0.02, ["u", "v"], ["x", "y", "x"])
    late = counts.copy()
    late[:, 3] = np.nan
    with pytest.raises(ValueError, match="end at different bins"):
        TrialExample(*one, counts, late)
    with pytest.raises(ValueError, match=r"rates of 'glm' \(3, 4, 1\), expected \(3, 4, 2\)"):
        TrialExample(*one, counts, counts, baseline="glm", baseline_rates=counts[..., :1])
    with pytest.raises(ValueError, match="no label"):
        EmbeddingExample("e", np.zeros((5, 3)), {})
    with pytest.raises(ValueError, match=r"expected \(2, 2\)"):
        ConfusionExample("c", ["a", "b"], np.zeros((3, 3)))


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


# Chooses every variant of every figure, one after another, and ends on the first.
WALK = """<script>window.addEventListener("load", async () => {
  for (const select of document.querySelectorAll("figure select")) {
    for (let k = select.options.length - 1; k >= 0; k--) {
      select.selectedIndex = k;
      select.dispatchEvent(new Event("change"));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  document.documentElement.dataset.walked = "yes";
});</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on PATH to open the page with")
def test_browser_draws_every_figure_without_errors(full: Path, tmp_path: Path) -> None:
    """Chromium in software GL; the page notes script errors and CSP violations in an attribute of <html>."""
    page = tmp_path / "page.html"
    page.write_text(full.read_text(encoding="utf-8").replace("</body>", WALK), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"]
    flags += ["--enable-unsafe-swiftshader", "--virtual-time-budget=20000", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if re.search(r"Uncaught|Error|Refused|WARN|:ERROR:CONSOLE", line)], console
    dom = done.stdout
    root = re.search(r"<html[^>]*>", dom)
    assert root is not None
    assert 'data-walked="yes"' in root.group(0), root.group(0)
    assert "data-errors" not in root.group(0), root.group(0)
    blocks = re.findall(r'<figure class="plot".*?</figure>', dom, re.S)
    assert len(blocks) == len(figures(full))
    for block in blocks:
        caption = re.sub(r"<[^>]+>", "", block[-400:])
        assert re.search(r'data-drawn="[1-9]', block), caption
        drawn = re.search(r'class="(trace scatter|hm)', block) or "<canvas" in block
        assert drawn, caption


def test_page_of_an_adaptation_shows_the_run_it_came_from(full: Path, tmp_path: Path) -> None:
    pretrained, rng = full.parents[1] / "run", np.random.default_rng(2)
    for animal in ("T249", "T264"):
        make_metrics(tmp_path / "new" / animal / "adapter.metrics.jsonl", rng, steps=200)
        (tmp_path / "new" / animal / "adapter").mkdir()
        (tmp_path / "new" / animal / "adapter" / "provenance.json").write_text(json.dumps({"base": str(pretrained)}))
    rows = [r for r in make_rows(rng) if r.task == "choice" and r.metric == "auc" and not r.train_trials]
    write_results(tmp_path / "results", rows, {})
    page = write_report(tmp_path / "new", tmp_path / "results", tmp_path / "report.html")
    names = {trace.get("name") for variants in figures(page) for figure in variants for trace in figure["data"]}
    assert {"T249 adapter", "T264 adapter", "validation"} <= names
    assert "2,996 optimizer steps" in Page(page).text
    assert "no config.yaml" not in Page(page).text
    assert "width: 64" in Page(page).text
