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

RAW = argparse.RawDescriptionHelpFormatter
OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status. `section.field=value` words are overrides."""
    parser = build_parser()
    words = sys.argv[1:] if argv is None else argv
    # Overrides may stand anywhere, also behind an option that takes several values.
    overrides = [word for word in words if OVERRIDE.match(word)]
    arguments = parser.parse_args([word for word in words if not OVERRIDE.match(word)])
    try:
        arguments.call(arguments, overrides)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, such as `head`, has gone
    except (ValueError, FileNotFoundError) as error:
        print(f"foundation {arguments.verb}: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All verbs with their options."""
    parser = argparse.ArgumentParser(
        prog="foundation", description="Foundation models for neural population recordings.", formatter_class=RAW
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text, epilog=f"example:\n  {example}", formatter_class=RAW)
        sub.set_defaults(call=run)
        return sub

    p = verb(
        "prepare",
        _prepare,
        "Turn a source into a corpus of recordings.",
        "foundation prepare luo2025 --source DIR --out corpora/luo2025\n"
        "  foundation prepare synthetic --out corpora/toy num_subjects=4 num_trials=100",
    )
    p.add_argument("recipe", help="synthetic, luo2025 or arrays")
    p.add_argument("--source", help="folder or file of the source")
    p.add_argument("--out", required=True, help="corpus folder")
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")

    p = verb(
        "train",
        _train,
        "Pretrain on the animals of a config; the same command resumes.",
        "accelerate launch -m foundation train configs/luo2025.yaml train.steps=2000",
    )
    p.add_argument("config", help="YAML file")
    p.add_argument("--processes", type=int, default=0, help="fail unless this many processes were started")

    p = verb(
        "finetune",
        _finetune,
        "Adapt a pretrained model to new animals, each on its own.",
        "foundation finetune runs/luo2025 --corpus corpora/luo2025 --subjects T249 T264 X046 --out runs/luo2025-new",
    )
    p.add_argument("run", help="run folder or model folder of the pretrained model")
    p.add_argument("--corpus", required=True)
    p.add_argument("--subjects", nargs="+", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--tracks", nargs="+", choices=("adapter", "full", "scratch"))
    p.add_argument("--train-trials", type=int, default=0, help="few-shot: use this many random train trials")
    p.add_argument("--draw", type=int, default=0, help="few-shot: which random draw")
    p.add_argument("--split", choices=("interleaved", "temporal"), help="default: as pretrained")
    p.add_argument("--seed", type=int, help="default: that of the pretrained run")

    p = verb(
        "embed",
        _embed,
        "Write the embeddings of a recording, per bin and per unit.",
        "foundation embed runs/luo2025-new --corpus corpora/luo2025 --recording luo2025/T249_... --out embeddings/",
    )
    p.add_argument("run")
    p.add_argument("--corpus", required=True)
    p.add_argument("--recording", required=True)
    p.add_argument("--out", required=True)

    p = verb(
        "evaluate",
        _evaluate,
        "Score adapted models on held-out animals against baselines and nulls.",
        "foundation evaluate runs/luo2025-new --corpus corpora/luo2025 --subjects T249 --out results/luo2025",
    )
    p.add_argument("runs", nargs="+", help="folders made by `foundation finetune`")
    p.add_argument("--corpus", required=True)
    p.add_argument("--subjects", nargs="+", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--tasks", nargs="+", help="default: all that the data allow")
    p.add_argument("--base", help="pretrained run, for the region probe (default: the one the models came from)")
    p.add_argument("--all-regions", action="store_true", help="probe regions on pretraining animals too")
    p.add_argument("--no-baselines", action="store_true", help="score the models alone")
    p.add_argument("--force", action="store_true", help="score an animal of the pretraining set; stamps the results")

    p = verb(
        "report",
        _report,
        "Write one self-contained HTML page.",
        "foundation report runs/luo2025-new results/luo2025 --out report.html",
    )
    p.add_argument("run")
    p.add_argument("results")
    p.add_argument("--out", default="report.html")

    p = verb("doctor", _doctor, "Check a corpus and print what is in it.", "foundation doctor corpora/luo2025")
    p.add_argument("corpus")

    p = verb(
        "demo",
        _demo,
        "Synthetic animals: prepare, pretrain, adapt to an unseen one, evaluate, report.",
        "foundation demo",
    )
    p.add_argument("--config", default="configs/demo.yaml")
    return parser


def _quiet() -> None:
    """Silence progress bars of libraries that would print inside ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _prepare(a: argparse.Namespace, overrides: list[str]) -> None:
    import yaml
    from tqdm import tqdm

    from data_recipes.recipe import prepare

    options = {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in overrides)}
    with tqdm(unit="session", desc=f"prepare {a.recipe}", disable=not sys.stderr.isatty()) as bar:

        def on_session(recording_id: str, done: int, total: int) -> None:
            bar.total = total
            bar.update(1)

        prepared = prepare(a.recipe, a.source, a.out, options=options, workers=a.workers, on_session=on_session)
    print(f"{a.out}: {len(prepared.written)} written, {len(prepared.skipped)} there already", end="")
    print(f", {len(prepared.failed)} failed" if prepared.failed else "")
    for recording_id, error in sorted(prepared.failed.items()):
        print(f"  {recording_id}: {error}")
    if prepared.failed:
        raise ValueError(
            f"{len(prepared.failed)} of {len(prepared.failed) + len(prepared.written)} sessions failed, see above"
        )


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
    from foundation.corpus import Corpus
    from foundation.finetune import Assignment, finetune

    _quiet()
    base = load_model(a.run)
    config = load_config(_config_of(a.run), overrides)
    if a.tracks:
        config.finetune.tracks = a.tracks
    split = a.split or base.provenance.get("split", "interleaved")
    assignment = Assignment(split, int(base.provenance.get("fold", 0)), a.train_trials, a.draw)
    corpus = Corpus.open(a.corpus).select(subjects=a.subjects)
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
    from foundation.corpus import Corpus

    _quiet()
    _no(overrides)
    evaluate(
        [Path(run) for run in a.runs],
        Corpus.open(a.corpus),
        a.subjects,
        Path(a.out),
        tasks=a.tasks,
        base=a.base,
        all_regions=a.all_regions,
        baselines=not a.no_baselines,
        force=a.force,
    )
    print(f"results: {a.out}/results.parquet")


def _report(a: argparse.Namespace, overrides: list[str]) -> None:
    from eval.report import write_report

    _no(overrides)
    print(f"report: {write_report(a.run, a.results, a.out)}")


def _doctor(a: argparse.Namespace, overrides: list[str]) -> None:
    from foundation.corpus import Corpus

    _no(overrides)
    corpus = Corpus.open(a.corpus, verify=True)
    print(f"{a.corpus}: {len(corpus)} recordings of {len(set(corpus.subjects.values()))} animals, hashes agree")
    for recording in corpus:
        rate = len(recording.spike_times) / recording.num_units / recording.duration_s
        names = ", ".join(recording.covariates)
        trials = f"{int(recording.trials['usable'].sum())}/{len(recording.trials)} usable trials"
        print(
            f"  {recording.info.recording_id}: {recording.info.subject_id}, {recording.num_units} units "
            f"at {rate:.1f} Hz, {recording.duration_s / 60:.1f} min, {trials}; {names}"
        )


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
        raise ValueError(f"{overrides}: this verb takes no overrides; give them to train, finetune or prepare")


if __name__ == "__main__":
    sys.exit(main())
