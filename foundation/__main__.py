"""The command line: verbs that call functions. Heavy imports happen inside the verb that needs them.

Also run as `accelerate launch -m foundation train ...`. Errors of the user's are one line and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from data_recipes import summaries
from foundation.arguments import build_parser

OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status. `section.field=value` words are overrides."""
    parser = build_parser(summaries())
    words = sys.argv[1:] if argv is None else argv
    # Overrides may stand anywhere, also behind an option that takes several values.
    overrides = [word for word in words if OVERRIDE.match(word)]
    arguments = parser.parse_args([word for word in words if not OVERRIDE.match(word)])
    try:
        VERBS[arguments.verb](arguments, overrides)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, such as `head`, has gone
    except (ValueError, FileNotFoundError) as error:
        print(f"foundation {arguments.verb}: {error}", file=sys.stderr)
        return 2
    return 0


def _quiet() -> None:
    """Silence progress bars of libraries that would print inside ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _prepare(a: argparse.Namespace, overrides: list[str]) -> None:
    import yaml
    from tqdm import tqdm

    from data_recipes.dry_run import describe
    from data_recipes.recipe import explain, prepare

    if a.options:
        print(explain(a.recipe))
        return
    try:
        options = {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in overrides)}
    except yaml.YAMLError as error:
        raise ValueError(
            f"{overrides}: expected name=value with a YAML value ({' '.join(str(error).split())})"
        ) from None
    if a.list:
        _list(a.recipe, a.source, options)
        return
    if not a.out:
        raise ValueError("--out is missing, expected the folder of the corpus")
    if a.dry_run:
        print(describe(a.recipe, a.source, a.out, options=options, workers=a.workers, limit=a.limit))
        return
    with tqdm(unit="session", desc=f"prepare {a.recipe}", disable=not sys.stderr.isatty()) as bar:

        def on_session(recording_id: str, done: int, total: int) -> None:
            bar.total = total
            bar.update(1)

        prepared = prepare(
            a.recipe,
            a.source,
            a.out,
            options=options,
            workers=a.workers,
            limit=a.limit,
            wait=not a.no_wait,
            on_session=on_session,
        )
    print(f"{a.out}: {len(prepared.written)} written, {len(prepared.skipped)} there already", end="")
    for number, what in (
        (len(prepared.elsewhere), "by other processes"),
        (len(prepared.claimed), "still being prepared by others"),
        (len(prepared.failed), "failed"),
    ):
        print(f", {number} {what}" if number else "", end="")
    print()
    for recording_id, why in sorted((prepared.claimed | prepared.failed).items()):
        print(f"  {recording_id}: {why}")
    if prepared.failed:
        raise ValueError(
            f"{len(prepared.failed)} of {len(prepared.failed) + len(prepared.written)} sessions failed, see above"
        )


def _list(recipe: str, source: str | None, options: dict[str, Any]) -> None:
    from data_recipes.nwb_listing import describe

    if recipe != "nwb" or not source:
        raise ValueError("--list is for `foundation prepare nwb --source FILE`")
    print(describe(source, **{name: str(options[name]) for name in ("ending",) if name in options}))


def _train(a: argparse.Namespace, overrides: list[str]) -> None:
    from foundation.config import load_config
    from foundation.pretrain import pretrain

    _quiet()
    config = load_config(a.config, overrides)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if a.processes and started != a.processes:
        raise ValueError(
            f"{a.processes} processes asked for, {started} started; on CPUs use "
            "`ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes N -m foundation train ...`"
        )
    print(f"model: {pretrain(config)}")


def _finetune(a: argparse.Namespace, overrides: list[str]) -> None:
    from foundation.checkpoint import load_model
    from foundation.config import load_config
    from foundation.finetune import Assignment, finetune
    from foundation.mixture import open_corpora

    _quiet()
    base = load_model(a.run)
    config = load_config(_config_of(a.run), overrides, base.provenance.get("settings"))
    if a.tracks:
        config.finetune.tracks = a.tracks
    split = a.split or base.provenance.get("split", "interleaved")
    if a.fold is not None and split != "interleaved":
        raise ValueError(f"--fold {a.fold}: the split {split!r} has no folds; leave it out, or add --split interleaved")
    fold = a.fold if a.fold is not None else int(base.provenance.get("fold", 0)) * (split == "interleaved")
    assignment = Assignment(split, fold, a.train_trials, a.draw)
    corpus = open_corpora(a.corpus).select(subjects=a.subjects)
    folders = finetune(
        base,
        corpus,
        a.subjects,
        Path(a.out),
        config.finetune,
        config.objective,
        assignment=assignment,
        seed=int(base.provenance.get("seed", 0)) if a.seed is None else a.seed,
        base_path=str(a.run),
    )
    for folder in folders:
        print(f"model: {folder}")


def _embed(a: argparse.Namespace, overrides: list[str]) -> None:
    from foundation.checkpoint import find_adapted
    from foundation.corpus import Corpus
    from foundation.embed import embed, write_embedding

    _quiet()
    _no(overrides)
    corpus = Corpus.open(a.corpus)
    corpus.folder(a.recording)
    model = find_adapted(a.run, a.recording, corpus.subjects[a.recording])
    print(f"embedding: {write_embedding(Path(a.out), embed(model, corpus, a.recording))}")


def _evaluate(a: argparse.Namespace, overrides: list[str]) -> None:
    from eval.held_out import evaluate
    from eval.results import read_results
    from eval.summary import summary_lines
    from foundation.mixture import open_corpora

    _quiet()
    _no(overrides)
    if a.suite:
        _evaluate_suite(a)
        return
    of_suites = ("predictions", "made_by", "ground_truth", "scorer")
    if alone := [f"--{name.replace('_', '-')}" for name in of_suites if getattr(a, name)]:
        raise ValueError(f"{' '.join(alone)}: without --suite, expected one of bwb-ts1, bwb-ts2, bwb-ts3 with it")
    if not a.runs or not a.subjects:
        missing = "--subjects is" if a.runs else "the run folder is"
        raise ValueError(f"{missing} missing, expected RUN --corpus CORPUS --subjects ANIMAL --out RESULTS")
    evaluate(
        [Path(run) for run in a.runs],
        open_corpora(a.corpus),
        a.subjects,
        Path(a.out),
        tasks=a.tasks,
        base=a.base,
        all_regions=a.all_regions,
        baselines=a.baselines,
        force=a.force,
    )
    print("\n".join(summary_lines(read_results(Path(a.out))[0])))
    print(f"results: {a.out}/results.parquet; `foundation report {a.out} --out page.html` makes the page")


def _evaluate_suite(a: argparse.Namespace) -> None:
    from eval.bwb_suite import evaluate_suite
    from foundation.mixture import open_corpora

    others = {"--tasks": a.tasks, "--all-regions": a.all_regions, "--baselines": a.baselines != "standard"}
    if given := [name for name, value in others.items() if value]:
        raise ValueError(f"{' '.join(given)}: not with --suite, which has its own tasks and nulls; leave it out")
    if a.subjects and not a.runs:
        raise ValueError("--subjects: no run to choose from; give the folder of `foundation finetune`")
    results = evaluate_suite(
        a.suite,
        [Path(folder) for folder in a.predictions or ()],
        open_corpora(a.corpus),
        Path(a.out),
        runs=[Path(run) for run in a.runs],
        subjects=a.subjects,
        base=a.base,
        models=[Path(folder) for folder in a.made_by or ()],
        ground_truth=Path(a.ground_truth) if a.ground_truth else None,
        scorer=Path(a.scorer) if a.scorer else None,
        force=a.force,
    )
    print(f"results: {results}")


def _score(a: argparse.Namespace, overrides: list[str]) -> None:
    from eval.score_files import score_files
    from foundation.mixture import open_corpora

    _quiet()
    _no(overrides)
    corpus = open_corpora(a.corpus)
    print(f"results: {score_files([Path(f) for f in a.files], corpus, Path(a.out), baselines=a.baselines)}")


def _report(a: argparse.Namespace, overrides: list[str]) -> None:
    from eval.report import write_report

    _no(overrides)
    if len(a.folders) > 2:
        raise ValueError(f"{len(a.folders)} folders, expected a results folder, or a run folder and a results folder")
    print(f"report: {write_report(a.folders[0], a.folders[-1], a.out, a.scaling)}")


def _doctor(a: argparse.Namespace, overrides: list[str]) -> None:
    from eval.doctor import DamagedCorpus, examine

    _no(overrides)
    try:
        print(examine(a.corpus, a.out, a.recordings, **({"max_pages": 0} if a.no_page else {})))
    except DamagedCorpus as error:
        print(error.text)
        raise


def _study(a: argparse.Namespace, overrides: list[str]) -> None:
    from eval.studies.study import run_study

    _quiet()
    print(f"study: {run_study(a.config, overrides, a.out)}")


def _push(a: argparse.Namespace, overrides: list[str]) -> None:
    from tqdm import tqdm

    from foundation.corpus import Corpus
    from foundation.push import push

    _no(overrides)
    corpus = Corpus.open(a.corpus)
    with tqdm(unit="recording", desc=f"push {a.corpus}", disable=not sys.stderr.isatty()) as bar:

        def on_recording(recording_id: str, done: int, total: int) -> None:
            bar.total = total
            bar.update(1)

        pushed = push(corpus, a.url, private=a.private, delete=a.delete, on_recording=on_recording)
    print(f"{a.url}: {len(pushed.sent)} sent, {len(pushed.unchanged)} there already", end="")
    print(f", {len(pushed.removed)} removed" if pushed.removed else "")


def _demo(a: argparse.Namespace, overrides: list[str]) -> None:
    from eval.demo import demo

    _quiet()
    demo(a.config, overrides)


def _config_of(run: str) -> Path | None:
    """The config a run was made with, beside or above its model folder."""
    for folder in (Path(run), Path(run).parent):
        if (folder / "config.yaml").exists():
            return folder / "config.yaml"
    return None


def _no(overrides: list[str]) -> None:
    if overrides:
        raise ValueError(f"{overrides}: this verb takes no overrides; give them to train, finetune, prepare or study")


VERBS = {
    "prepare": _prepare,
    "train": _train,
    "finetune": _finetune,
    "embed": _embed,
    "evaluate": _evaluate,
    "score": _score,
    "report": _report,
    "doctor": _doctor,
    "study": _study,
    "push": _push,
    "demo": _demo,
}

if __name__ == "__main__":
    sys.exit(main())
