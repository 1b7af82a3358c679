"""One suite of Brain-Wide Bench on a prepared corpus: predictions scored by us and the package, with nulls and checks.

    foundation evaluate runs/mine-ts1 --suite bwb-ts1 --corpus corpora/bwb_all_units --out results/bwb-ts1
    foundation evaluate --suite bwb-ts1 --predictions theirs --corpus corpora/bwb_all_units --out results/theirs

Models of ours predict in `eval.bwb_models`. Scores: `eval.bwb_scores`; windows and truth: `eval.bwb_windows`; what
may not be scored: `eval.bwb_checks`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import foundation
from eval.adapted import ProvenanceError
from eval.bwb_checks import animal_breaches, model_breaches, submission_gaps
from eval.bwb_export import export_prediction, export_regions
from eval.bwb_files import SuiteFile, prediction_files, read_suite_prediction, write_suite_prediction
from eval.bwb_models import models_of, write_predictions
from eval.bwb_nulls import folder_of, region_nulls, session_nulls
from eval.bwb_package import largest_difference, score_with_package
from eval.bwb_scores import CONVENTIONS, FileScore, over_seeds, score_folder
from eval.bwb_tasks import TASKS, Suite, suite_of, task_of
from eval.bwb_windows import is_evaluated, make_ground_truth, ts3_table
from eval.predictions import read_prediction
from eval.results import ResultRow, write_results
from foundation.corpus import Corpus
from foundation.recording import Recording

# How far our numbers may lie from the package's, which sums millions of bins in single precision.
TOLERANCE = 1e-3
_NULLS = "nulls"


def evaluate_suite(
    name: str,
    predictions: Sequence[Path],
    corpus: Corpus,
    out: Path,
    *,
    runs: Sequence[Path] = (),
    subjects: Sequence[str] | None = None,
    base: str | None = None,
    ground_truth: Path | None = None,
    models: Sequence[Path] = (),
    scorer: Path | None = None,
    force: bool = False,
) -> Path:
    """Score predictions of one suite, with the nulls of every session beside them, and write results for the report.

    Args:
        name: "bwb-ts1", "bwb-ts2" or "bwb-ts3".
        predictions: Folders with files of the benchmark, or with our own `.npz` files, which are exported first.
        corpus: Made by the recipe `brainsets` with configs/brainsets/brain_wide_bench.yaml; of build all_units for
            suite 1, selected_units for 2 and 3. Suite 3 needs the sessions of pretraining too, for its nulls.
        out: Results folder; `predictions`, `nulls` and `ground_truth` are written in it.
        runs: Folders made by `foundation finetune`, whose models make their own predictions.
        subjects: Animals whose models of `runs` are meant; by default all for evaluation that have some.
        base: Pretrained run that `runs` came from, for suite 3; by default the one they remember.
        ground_truth: Folder of the benchmark's own truths; by default they are made from the corpus.
        models: Folders of the models that made `predictions`, pretrained or adapted: what they have seen is checked,
            as is what those of `runs` have seen.
        scorer: Interpreter that has `ibl-bwb-eval`; its scores are compared with ours.
        force: Score what the checks forbid, and stamp the results.

    Returns:
        `out/results.parquet`.

    Raises:
        ProvenanceError: A model saw an animal or a test trial of the evaluation.
        ValueError: Predictions that are missing, malformed or incomplete, or scores that differ from the package's.
    """
    suite, out = suite_of(name), Path(out)
    recordings = {recording.info.session: recording for recording in corpus}
    evaluated = {session: one for session, one in recordings.items() if is_evaluated(one)}
    if not predictions and not runs:
        raise ValueError(f"{name}: nothing to score, expected runs of `foundation finetune` or --predictions FOLDER")
    if not evaluated:
        raise ValueError(
            f"{corpus.path}: no session for evaluation of Brain-Wide Bench; prepare its folder eval with "
            "configs/brainsets/brain_wide_bench.yaml"
        )
    ours = models_of(runs, evaluated, subjects) if runs else []
    seen = [*models, *(adapted.folder for adapted in ours), *([Path(base)] if base else [])]
    broken = animal_breaches(recordings) + [b for path in seen for b in model_breaches(path, evaluated, suite)]
    if broken and not force:
        raise ProvenanceError("; ".join(broken) + ". Hold them out, or pass --force to score under a stamp")
    truth = ground_truth or out / "ground_truth"
    if ground_truth is None:
        make_ground_truth(evaluated.values(), suite, truth)
    folder = out / "predictions"
    made = write_predictions(suite, ours, recordings, folder, corpus_sha256=corpus.manifest_sha256, base=base)
    gather(predictions, suite, evaluated, folder, made)
    scores = score_folder(folder, truth, suite)
    if unknown := sorted({one.recording_id for one in scores} - set(evaluated) - {""}):
        raise ValueError(f"{folder}: predictions of {unknown[:3]}, which {corpus.path} does not have for evaluation")
    best = write_nulls(suite, recordings, {(s.task, s.recording_id) for s in scores}, out / _NULLS)
    null_scores = score_folder(out / _NULLS, truth, suite)
    package = [
        _compare(scorer, suite, *each, truth) for each in ((folder, scores), (out / _NULLS, null_scores)) if scorer
    ]
    # Headers alone: a session of suite 2 has hundreds of megabytes.
    heads = [replace(read_suite_prediction(path), tensors={}) for path in prediction_files(folder, suite)]
    if gaps := submission_gaps(heads, evaluated):
        print("not a full submission: " + "; ".join(gaps), file=sys.stderr)
    provenance = {
        "title": f"Brain-Wide Bench, suite {suite[-1]}",
        "summary": "Each session under its own split of the benchmark. "
        + ("" if seen else "What the models were trained on was not given, so it was not checked."),
        "data": "ibl_brain_wide_bench_2026",
        "seeds": sorted({one.seed for one in scores}),
        "manifest_sha256": corpus.manifest_sha256,
        "versions": {
            "foundation": foundation.__version__,
            **({"ibl-bwb-eval": package[0]["version"]} if package else {}),
        },
        "models": sorted({one.label for one in scores}),
        "forced": broken,
        "package": package,
        "not_a_full_submission": gaps,
        "over_seeds": {f"{label}/{task}": of for (label, task), of in over_seeds([*scores, *null_scores]).items()},
    }
    write_results(out, rows_of(scores, null_scores, best, recordings), provenance)
    return out / "results.parquet"


def gather(
    sources: Sequence[Path],
    suite: Suite,
    evaluated: Mapping[str, Recording],
    out: Path,
    there: Sequence[Path] = (),
) -> None:
    """Copy the suite's prediction files of some folders into one, our own `.npz` files exported.

    Args:
        sources: Folders.
        suite: Which.
        evaluated: Sessions for evaluation.
        out: The one folder.
        there: Files that belong in it already.

    Raises:
        ValueError: No file, one that cannot be exported, or two of one label, task, session and seed.
    """
    found = set(there)
    for source in sources:
        if not Path(source).is_dir():
            raise ValueError(f"{source}: no such folder, expected one with predictions of suite {suite}")
        paths = [*prediction_files(source, suite), *sorted(Path(source).rglob("*.npz"))]
        if not paths:
            raise ValueError(f"{source}: no prediction of suite {suite}, neither .safetensors nor .npz files")
        for path in paths:
            file = _exported(path, suite, evaluated) if path.suffix == ".npz" else read_suite_prediction(path)
            if file.path(out) in found:
                raise ValueError(f"{file.where}: two predictions of one label, task, session and seed; keep one")
            found.add(write_suite_prediction(out, file))
    if not found:
        raise ValueError(f"no prediction of suite {suite}: the models have no target that it asks for")
    for path in sorted(out.rglob("seed_*.safetensors")):
        if path not in found:
            raise ValueError(f"{path}: left from another call; give another --out")


def write_nulls(
    suite: Suite, recordings: Mapping[str, Recording], scored: set[tuple[str, str]], out: Path
) -> dict[tuple[str, str], str]:
    """Write the null predictions of what is scored.

    Args:
        suite: Which.
        recordings: By session, those of pretraining too.
        scored: Task id and session of each prediction.
        out: Folder of the nulls.

    Returns:
        The label of the strongest null by task id and session: chosen on val windows; in suite 3 rate and depth.
    """
    best = {}
    if suite == "ts3":
        train = [one for one in recordings.values() if not is_evaluated(one)]
        if not train:
            raise ValueError("suite 3: no session of pretraining in the corpus; its nulls are fitted on their units")
        tables = [ts3_table(part) for part in (train, [one for one in recordings.values() if is_evaluated(one)])]
        nulls = region_nulls(*tables)
        best["ts3-unit_cosmos", ""] = folder_of("null rate and depth")
        for file in nulls.values():
            write_suite_prediction(out, file)
        return best
    for task_id, session in sorted(scored):
        print(f"nulls of {task_id} on {session}", file=sys.stderr, flush=True)
        nulls, strongest = session_nulls(recordings[session], task_of(task_id))
        best[task_id, session] = folder_of(strongest)
        for file in nulls.values():
            write_suite_prediction(out, file)
    return best


def rows_of(
    scores: Sequence[FileScore],
    nulls: Sequence[FileScore],
    best: Mapping[tuple[str, str], str],
    recordings: Mapping[str, Recording],
) -> list[ResultRow]:
    """Result rows of models and nulls: every metric of suites 1 and 2, the means over classes of suite 3."""
    known = {(one.task, one.recording_id, one.label): one.scores for one in nulls}
    rows = []
    for kind, many in (("null", nulls), ("model", scores)):
        for one in many:
            task, place = task_of(one.task), (one.task, one.recording_id)
            against = best[place] if one.label != best[place] else ""
            for metric in task.metrics:
                if metric not in one.scores:
                    continue
                null = known.get((*place, against), {}).get(metric)
                rows.append(
                    ResultRow(
                        dataset=next(iter(recordings.values())).info.dataset,
                        subject=recordings[one.recording_id].info.subject_id if one.recording_id else "all",
                        session=one.recording_id or "pooled",
                        split="interleaved" if task.suite == "ts2" else "temporal",
                        task=f"region {one.task}" if task.suite == "ts3" else one.task,
                        model=one.label.replace("_", " ") if kind == "null" else one.label,
                        kind=kind,
                        train_trials=0,
                        draw=0,
                        seed=one.seed,
                        metric=metric,
                        convention=CONVENTIONS[metric],
                        value=one.scores[metric],
                        n=one.n,
                        null=against.replace("_", " ") if null is not None else "",
                        null_value=null,
                        higher_is_better=metric != "mae",
                    )
                )
    return rows


def _exported(path: Path, suite: Suite, evaluated: Mapping[str, Recording]) -> SuiteFile:
    """A file of ours; the label is the model's name."""
    prediction = read_prediction(path)
    label = prediction.model.replace("/", "-").replace(" ", "_")
    if prediction.task == "region" and suite == "ts3":
        return export_regions(prediction, evaluated, label)
    name = prediction.task.removeprefix("decode_")
    tasks = [task for task in TASKS.values() if task.suite == suite and task.covariate == name]
    if not tasks or prediction.session not in evaluated:
        why = f"no task of suite {suite}" if not tasks else f"no session for evaluation {prediction.session!r}"
        raise ValueError(f"{path}: {prediction.task}: {why}; leave it out of the folder")
    return export_prediction(prediction, evaluated[prediction.session], tasks[0], label)


def _compare(scorer: Path, suite: Suite, folder: Path, ours: Sequence[FileScore], truth: Path) -> dict[str, Any]:
    theirs = score_with_package(scorer, suite, folder, truth)
    worst, where = largest_difference(ours, theirs)
    if worst > TOLERANCE:
        raise ValueError(
            f"{where}: ours differs from ibl-bwb-eval {theirs.version} by {worst:.2g}; tell the maintainers"
        )
    return {"folder": folder.name, "version": theirs.version, "largest_difference": worst, "where": where}
