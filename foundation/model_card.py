"""The README.md of a saved model: what it was trained on, what it reads and predicts, how it is loaded, what it is not.

Filled from provenance; what nobody recorded is left for the author to say, and marked so.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd
import yaml

from foundation.channels import Channel

PATENT = (
    "The contrastive objective follows CEBRA, whose authors state that it is patented (US12499131B2); whether and how "
    "that matters to you is for your own counsel. `objective.behavior_contrast=0` leaves it out of pretraining."
)
# More names than this are counted, not listed.
_MOST = 40


def model_card(
    size: dict[str, Any],
    channels: list[Channel],
    window: tuple[float, float],
    parameters: tuple[int, int],
    sessions: pd.DataFrame,
    units: pd.DataFrame,
    provenance: dict[str, Any],
) -> str:
    """The text, with YAML front matter.

    Args:
        size: Of the model, as in its config.
        channels: Covariates that it reads or predicts.
        window: Bin size and longest window, seconds.
        parameters: Shared ones, and numbers per unit.
        sessions: The sessions with an adapter, `recording_id` and `subject_id`.
        units: Their units.
        provenance: Of the model.
    """
    name = str(provenance.get("name", "model"))
    front = {"library_name": "foundation", "license": "other", "tags": ["neuroscience", "electrophysiology", "spikes"]}
    pretrained_on = provenance.get("pretraining_subjects", [])
    adapted = provenance.get("adapted") or {}
    animals = sorted(set(sessions["subject_id"])) if len(sessions) else []
    kind = f"adapted to {_names(animals)}" if adapted else "pretrained"
    lines = [
        f"# {name}",
        "",
        f"A model of neural population recordings, {kind}, made with the `foundation` library.",
        "",
    ]
    per_animal = Counter(sessions["subject_id"]) if len(sessions) else Counter()
    facts = {
        "pretraining animals": _names(pretrained_on) or "none: trained from scratch",
        "pretraining sessions": len(provenance.get("pretraining_recordings", [])) * bool(pretrained_on),
        "sessions held out of known animals": _names(provenance.get("held_out_sessions", [])),
        "sessions with an adapter": ", ".join(f"{who} ({num})" for who, num in per_animal.items()),
        "units with an adapter": len(units),
        "track": provenance.get("track"),
        "split, fold": f"{provenance.get('split', '-')}, {provenance.get('fold', '-')}",
        "seed": provenance.get("seed"),
        "reads": _names([c.spec.name for c in channels if c.is_input]),
        "predicts": _names(["spikes", *(c.spec.name for c in channels if c.is_target)]),
        "bins, longest window": f"{1000 * window[0]:g} ms, {window[1]:g} s",
        "parameters": f"{parameters[0]:,} shared, {parameters[1]:,} per unit",
        "trunk": ", ".join(f"{key} {size[key]}" for key in ("layout", "width", "depth", "heads") if key in size),
        "corpus (SHA-256 of its manifest)": provenance.get("corpus_sha256"),
        "versions": ", ".join(f"{key} {value}" for key, value in provenance.get("versions", {}).items()),
    }
    lines += ["| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items() if value not in (None, "", 0)]
    lines += [
        "",
        "```python",
        "from foundation.model import FoundationModel",
        "",
        'model = FoundationModel.from_pretrained("USER/NAME")  # or a folder; safetensors, JSON and Parquet, no code',
        "```",
        "",
        "`foundation finetune hf://USER/NAME --corpus CORPUS --subjects ANIMAL --out OUT` adapts it to an animal that "
        "it has not seen.",
        "",
        "## Not for",
        "",
        "Its animals above are no test of it: score it on others (`foundation evaluate` refuses these). It says "
        "nothing about species, areas, tasks and probes unlike those that it was trained on, and nothing clinical.",
        "",
        "## To be filled in by its author",
        "",
        "- Licence of the weights, and of the recordings that they were trained on (here: `other`).",
        "- Scores on held-out animals, each with its baseline, null, interval and convention.",
        "",
        PATENT,
    ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n".join(lines) + "\n"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(map(str, names[:_MOST])) + more
