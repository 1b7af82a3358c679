"""The README.md of a corpus on the Hugging Face Hub: what it holds and how `datasets.load_dataset` finds its tables."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pyarrow.parquet as pq
import yaml

from foundation.corpus import Corpus

# Names that the Hub knows; others are given as "other".
HUB_LICENCES = {"apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odbl"}
TABLES = {"units": "units.parquet", "trials": "trials.parquet"}


def dataset_card(corpus: Corpus, name: str) -> str:
    """The text of README.md: YAML front matter with licence and tables, then animals, sessions, hours, recipes.

    Recordings whose tables have other columns cannot be one table: each set of columns is a configuration of its own,
    `trials` where there is one, else `trials-<dataset>`, and `trials-<dataset>-2` for the second of a dataset. Spikes
    are no configuration: `load_dataset` wants all in the format of the first, and spikes are Arrow, not Parquet.
    """
    infos = {key: json.loads((corpus.folder(key) / "info.json").read_bytes()) for key in corpus.ids}
    licences = sorted({info["info"]["licence"] for info in infos.values() if info["info"]["licence"]})
    spelled = sorted({licence.lower().replace(" ", "-") for licence in licences})
    known = [licence for licence in spelled if licence in HUB_LICENCES]
    configs = _configs(corpus)
    front = {
        "license": known[0] if len(spelled) == len(known) == 1 else known if spelled and spelled == known else "other",
        "pretty_name": name,
        "tags": ["neuroscience", "electrophysiology", "spikes"],
        "configs": configs,
    }
    lines = [f"# {name}", "", "A corpus of neural population recordings for the `foundation` library.", ""]
    lines += [
        "| dataset | animals | sessions | hours | units | spikes | species | licence | recipe |",
        "|---" * 9 + "|",
    ]
    for dataset in sorted({key.split("/")[0] for key in infos}):
        part = [info for key, info in infos.items() if key.split("/")[0] == dataset]
        lines.append(
            f"| {dataset} | {len({i['info']['subject_id'] for i in part})} | {len(part)} "
            f"| {sum(i['duration_s'] for i in part) / 3600:.1f} | {sum(i['num_units'] for i in part)} "
            f"| {sum(i['num_spikes'] for i in part)} | {_names(part, 'species')} | {_names(part, 'licence')} "
            f"| {_names(part, 'recipe')} |"
        )
    if not licences or any(not info["info"]["licence"] for info in infos.values()):
        lines += ["", "Some recordings state no licence: ask their authors before you use or share them."]
    lines += [
        "",
        "```python",
        "from foundation.corpus import Corpus",
        f'corpus = Corpus.open("hf://datasets/USER/{name}")  # recordings are fetched when first used',
        "",
        "from datasets import load_dataset",
        f'units = load_dataset("USER/{name}", "{configs[0]["config_name"]}")',
        'spikes = load_dataset("arrow", '
        f'data_files="hf://datasets/USER/{name}/recordings/*/*/spikes.arrow").with_format("arrow")',
        "```",
        "",
        "Sources: "
        + "; ".join(sorted({i["info"]["source"] for i in infos.values() if i["info"]["source"]})[:20])
        + ".",
    ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n".join(lines) + "\n"


def _configs(corpus: Corpus) -> list[dict[str, Any]]:
    configs: list[dict[str, Any]] = []
    for table, file in TABLES.items():
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for key in corpus.ids:
            path = corpus.folder(key) / file
            columns = pq.read_schema(path).remove_metadata().to_string()
            groups[key.split("/")[0], columns].append(f"recordings/{key}/{file}")
        if len({columns for _, columns in groups}) == 1:
            configs.append({"config_name": table, "data_files": f"recordings/*/*/{file}"})
            continue
        seen: dict[str, int] = defaultdict(int)
        for (dataset, _), files in groups.items():
            seen[dataset] += 1
            number = f"-{seen[dataset]}" if seen[dataset] > 1 else ""
            configs.append({"config_name": f"{table}-{dataset}{number}", "data_files": files})
    return configs


def _names(infos: list[dict[str, Any]], field: str) -> str:
    return ", ".join(sorted({info["info"][field] for info in infos if info["info"][field]})) or "not stated"
