"""What an Allen Neuropixels file is and holds, from its names; reads no values."""

from __future__ import annotations

import h5py

from data_recipes.allen_behavior import ELLIPSES, EVENTS, EYE, RUNNING
from data_recipes.allen_stimuli import stimulus_of
from data_recipes.nwb_file import children, column_names, node

CODING, BEHAVIOR = "allen_visual_coding", "allen_visual_behavior"


def parts(file: h5py.File) -> tuple[list[str], list[str]]:
    """What of that which the recipe uses is in the file, and what is not."""
    found = {
        "spikes": node(file, "units/spike_times") is not None,
        "electrodes": node(file, "general/extracellular_ephys/electrodes") is not None,
        "running speed": any(node(file, path) is not None for path in RUNNING),
        "eye tracking": any(node(file, path) is not None for path in (ELLIPSES, EYE)),
    }
    names = [n.removesuffix("_presentations") for n in children(file, "intervals") if n.endswith("_presentations")]
    if dataset_of(file) == BEHAVIOR:
        found |= {name: node(file, path) is not None for name, path in EVENTS.items()}
        found["trials"] = node(file, "intervals/trials") is not None
    present = [name for name, there in found.items() if there]
    stimuli = sorted({stimulus_of(name) for name in names} - {"other"})
    return present + stimuli, [name for name, there in found.items() if not there]


def dataset_of(file: h5py.File) -> str | None:
    """Which data set a file is of; None if neither."""
    trials = node(file, "intervals/trials")
    tables = {n: g for n, g in children(file, "intervals").items() if n.endswith("_presentations")}
    if trials is not None and "change_image_name" in column_names(trials):
        return BEHAVIOR
    if any("image_name" in column_names(group) for group in tables.values()):
        return BEHAVIOR
    known = any(stimulus_of(name) != "other" for name in tables)
    return CODING if known else None
