"""The words of the command line: every verb with its options and an example; runs none."""

from __future__ import annotations

import argparse
import os

RAW = argparse.RawDescriptionHelpFormatter


def build_parser(recipes: str) -> argparse.ArgumentParser:
    """All verbs with their options.

    Args:
        recipes: One line on each recipe.
    """
    parser = argparse.ArgumentParser(
        prog="foundation", description="Foundation models for neural population recordings.", formatter_class=RAW
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text, epilog=f"example:\n  {example}", formatter_class=RAW)

    p = verb(
        "prepare",
        "Turn a source into a corpus of recordings; on many nodes at once, run it on each.",
        "foundation prepare luo2025 --source DIR --out corpora/luo2025\n"
        "  foundation prepare nwb --source s3://bucket/folder --out corpora/mine --dry-run\n"
        "  foundation prepare synthetic --out corpora/toy num_subjects=4 num_trials=100\n\n"
        f"recipes:\n{recipes}",
    )
    p.add_argument("recipe", help="one of those below")
    p.add_argument("--source", help="folder, file or URL (s3://, https://, hf://datasets/...) of the source")
    p.add_argument("--out", help="corpus folder")
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    p.add_argument("--limit", type=int, help="only the first so many sessions")
    p.add_argument("--dry-run", action="store_true", help="list what would be done, and estimate time and disk")
    p.add_argument("--no-wait", action="store_true", help="leave the sessions that other nodes are at to them")
    p.add_argument("--options", action="store_true", help="explain the recipe and its name=value options")
    p.add_argument("--list", action="store_true", help="nwb: show what is in a file, and a mapping for it")

    p = verb(
        "train",
        "Pretrain on the animals of a config; the same command resumes.",
        "accelerate launch -m foundation train configs/luo2025.yaml train.steps=2000",
    )
    p.add_argument("config", help="YAML file")
    p.add_argument("--processes", type=int, default=0, help="fail unless this many processes were started")

    p = verb(
        "finetune",
        "Adapt a pretrained model to new animals, each on its own.",
        "foundation finetune runs/luo2025 --corpus corpora/luo2025 --subjects T249 T264 X046 --out runs/luo2025-new",
    )
    p.add_argument("run", help="run folder or model folder of the pretrained model, or hf://USER/NAME")
    p.add_argument("--corpus", nargs="+", required=True, help="one or several")
    p.add_argument("--subjects", nargs="+", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--tracks", nargs="+", choices=("adapter", "full", "scratch"))
    p.add_argument("--train-trials", type=int, default=0, help="few-shot: use this many random train trials")
    p.add_argument("--draw", type=int, default=0, help="few-shot: which random draw")
    p.add_argument(
        "--split",
        metavar="SPLIT",
        help="interleaved, temporal, or source:NAME, the intervals NAME that the recordings came with, such as "
        "source:ts1 (default: as pretrained)",
    )
    p.add_argument("--fold", type=int, choices=range(5), help="of the interleaved split (default: as pretrained)")
    p.add_argument("--seed", type=int, help="default: that of the pretrained run")

    p = verb(
        "embed",
        "Write the embeddings of a recording, per bin and per unit.",
        "foundation embed runs/luo2025-new --corpus corpora/luo2025 --recording luo2025/T249_... --out embeddings/",
    )
    p.add_argument("run")
    p.add_argument("--corpus", required=True)
    p.add_argument("--recording", required=True)
    p.add_argument("--out", required=True)

    p = verb(
        "evaluate",
        "Score adapted models on held-out animals against baselines and nulls; with --suite, in a published benchmark.",
        "foundation evaluate runs/luo2025-new --corpus corpora/luo2025 --subjects T249 --out results/luo2025\n\n"
        "Brain-Wide Bench: models adapted in the suite's own split predict in its windows and files, are scored as it\n"
        "scores, with nulls; so are prediction files of any tool. `foundation report OUT` makes the page.\n"
        "  foundation finetune runs/bwb --corpus corpora/bwb_all --subjects A B --split source:ts1 --out runs/bwb-ts1\n"
        "  foundation evaluate runs/bwb-ts1 --suite bwb-ts1 --corpus corpora/bwb_all --out results/bwb-ts1\n"
        "  foundation evaluate runs/bwb-ts2 --suite bwb-ts2 --corpus corpora/bwb_selected --out results/bwb-ts2\n"
        "  foundation evaluate runs/bwb-ts2 --suite bwb-ts3 --corpus corpora/bwb_selected --out results/bwb-ts3\n"
        "  foundation evaluate --suite bwb-ts1 --predictions theirs --corpus corpora/bwb_all --out results/theirs\n"
        "      --scorer bwb-env/bin/python",
    )
    p.add_argument("runs", nargs="*", help="folders made by `foundation finetune`")
    p.add_argument("--corpus", nargs="+", required=True, help="one or several")
    p.add_argument("--subjects", nargs="+", help="animals to score (with --suite default: all for evaluation)")
    p.add_argument("--out", required=True)
    p.add_argument("--tasks", nargs="+", help="default: all that the data allow")
    p.add_argument("--base", help="pretrained run, for the region probe (default: the one the models came from)")
    p.add_argument("--all-regions", action="store_true", help="probe regions on pretraining animals too")
    _baselines(p)
    p.add_argument("--force", action="store_true", help="score an animal of the pretraining set; stamps the results")
    bench = p.add_argument_group("Brain-Wide Bench")
    bench.add_argument(
        "--suite",
        choices=("bwb-ts1", "bwb-ts2", "bwb-ts3"),
        help="behavior in its seconds (build all_units); hidden units and the last 100 ms, or regions (selected_units)",
    )
    bench.add_argument(
        "--predictions", nargs="+", metavar="FOLDER", help="files of the benchmark's format, or .npz as for `score`"
    )
    bench.add_argument(
        "--made-by", nargs="+", metavar="MODEL", help="models of ours behind --predictions: checks their past"
    )
    bench.add_argument("--ground-truth", metavar="FOLDER", help="of the benchmark (default: made from the corpus)")
    bench.add_argument(
        "--scorer", metavar="PYTHON", help="interpreter that has ibl-bwb-eval: scores there too, compares"
    )

    p = verb(
        "score",
        "Score prediction files of any tool against the same baselines and nulls.",
        "foundation score theirs/predictions --corpus corpora/luo2025 --out results/theirs\n"
        "  foundation report results/theirs",
    )
    p.add_argument("files", nargs="+", help=".npz files, or folders of such; the format is in eval/predictions.py")
    p.add_argument("--corpus", nargs="+", required=True, help="one or several")
    p.add_argument("--out", required=True)
    _baselines(p)

    p = verb(
        "report",
        "Write one self-contained HTML page.",
        "foundation report runs/luo2025-new results/luo2025 --out report.html\n"
        "  foundation report runs/luo2025-new results/luo2025 --scaling runs/luo2025-scaling/scaling.parquet",
    )
    p.add_argument("folders", nargs="+", metavar="FOLDER", help="run folder, if there is one, and results folder")
    p.add_argument("--out", default="report.html")
    p.add_argument(
        "--scaling", metavar="FILE", help="scaling.parquet of `foundation study configs/studies/scaling.yaml`"
    )

    p = verb(
        "doctor",
        "Check a corpus, say what is in it and what looks wrong, and plot its recordings.",
        "foundation doctor corpora/luo2025 --recordings luo2025/T176_2018_05_03",
    )
    p.add_argument("corpus", help="folder or URL")
    p.add_argument("--out", help="folder of the pages (default: CORPUS/doctor)")
    p.add_argument("--recordings", nargs="+", help="only these, with a page for each")
    p.add_argument("--no-page", action="store_true", help="print only")

    p = verb(
        "study",
        "Answer a scientific question: tables, figures and one self-contained page.",
        "foundation study configs/studies/hippocampus.yaml seeds=[0,1,2] --out results/studies/hippocampus",
    )
    p.add_argument("config", help="YAML file with the name of the study and its fields")
    p.add_argument("--out", help="folder of the findings (default: results/studies/NAME of the file)")

    p = verb(
        "push",
        "Send a corpus to the Hugging Face Hub or another place; only what changed is sent.",
        "foundation push corpora/luo2025 hf://datasets/USER/luo2025\n"
        "  foundation train configs/luo2025.yaml data.corpus=hf://datasets/USER/luo2025",
    )
    p.add_argument("corpus")
    p.add_argument("url", help="hf://datasets/USER/NAME, s3://bucket/path, file:///path ...")
    p.add_argument("--private", action="store_true", help="make a new dataset on the Hub private")
    p.add_argument("--delete", action="store_true", help="remove recordings there that the corpus does not have")

    p = verb(
        "demo",
        "Synthetic animals: prepare, pretrain, adapt to an unseen one, evaluate, report.",
        "foundation demo",
    )
    p.add_argument("--config", default="configs/demo.yaml")
    return parser


def _baselines(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--baselines",
        choices=("none", "quick", "standard", "all"),
        default="standard",
        help="quick: without networks and without controls on broken sessions; standard: with these, a network per "
        "label and behavior, and probes of known animals; all: with a sequential VAE of the spikes, which doubles the "
        "cost, and decoders that borrow from pretraining sessions (default: standard)",
    )
