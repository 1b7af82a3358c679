"""The whole path on synthetic animals in one call: prepare, pretrain, adapt to an unseen animal, evaluate, report."""

from __future__ import annotations

import time
from pathlib import Path

from data_recipes.recipe import open_or_prepare
from eval.held_out import evaluate
from eval.report import write_report
from eval.results import read_results
from eval.summary import summary_lines
from foundation.checkpoint import load_model
from foundation.config import load_config
from foundation.corpus import Corpus
from foundation.finetune import Assignment, finetune
from foundation.pretrain import pretrain

NUM_ANIMALS, NUM_UNITS, NUM_TRIALS = 8, 36, 120
# What fits into three minutes; `foundation evaluate` has more behaviors and predicts units within and across regions.
TASKS = ["encode", "cosmooth", "forecast", "choice", "choice_t", "decode_wheel_speed", "region"]


def demo(config_path: str, overrides: list[str]) -> Path:
    """Run everything and return the report page.

    Args:
        config_path: `configs/demo.yaml`, or one like it over a synthetic corpus.
        overrides: `section.field=value`.
    """
    config = load_config(config_path, overrides)
    begun = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - begun:5.0f} s] {text}", flush=True)

    say(f"prepare {NUM_ANIMALS} synthetic animals")
    open_or_prepare(
        "synthetic", config.data.corpus, num_subjects=NUM_ANIMALS, num_units=NUM_UNITS, num_trials=NUM_TRIALS
    )
    corpus = Corpus.open(config.data.corpus)
    say(f"pretrain on all but {', '.join(config.data.held_out)}")
    model = pretrain(config)
    adapted = config.folder / "new"
    say("adapt to the unseen animal, and train the same network on it alone")
    finetune(
        load_model(model),
        corpus.select(subjects=config.data.held_out),
        config.data.held_out,
        adapted,
        config.finetune,
        config.objective,
        assignment=Assignment(config.data.split, config.data.fold),
        seed=config.seed,
        base_path=str(model),
    )
    say("evaluate against baselines and nulls")
    results = config.folder / "results"
    evaluate([adapted], corpus, config.data.held_out, results, tasks=TASKS, baselines="quick")
    page = write_report(config.folder, results, config.folder / "report.html")
    say("done")
    print("\n".join(summary_lines(read_results(results)[0])))
    print(f"report: {page}")
    return page
