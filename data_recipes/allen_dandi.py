"""Sessions of a dandiset, listed with the optional extra `dandi`; `data_recipes.sources` downloads them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from data_recipes.sources import list_files

# What a dandiset holds, known before anything is downloaded.
DANDISETS = {"000021": "allen_visual_coding", "000713": "allen_visual_behavior"}


def dandi_sessions(source: str, dataset: str | None) -> dict[str, dict[str, Any]]:
    """The session files of a dandiset (not those of the LFP of its probes), by recording id.

    Args:
        source: `dandi:<id>` or `dandi:<id>/<version>`.
        dataset: First part of recording ids; None for that of `DANDISETS`.

    Returns:
        `path` (URL), `version`, `size` (bytes) and `recording_id` of each.

    Raises:
        ValueError: No such form of source, an unknown dandiset without `dataset`, or the extra is not installed.
    """
    found = re.fullmatch(r"dandi:(\d{6})(?:/([\w.]+))?", source)
    if not found:
        raise ValueError(f"allen: --source is {source!r}, expected dandi:000021 or dandi:000021/<version>")
    dandiset, version = found.groups()
    dataset = dataset or DANDISETS.get(dandiset)
    if dataset is None:
        raise ValueError(f"allen: dandiset {dandiset} is none of {DANDISETS}; give dataset=NAME to take it anyway")
    try:
        from dandi.dandiapi import DandiAPIClient
    except ImportError as error:
        raise ValueError(
            f"--source {source} needs the package dandi, which is not installed: pip install 'foundation[dandi]' (or "
            "pip install dandi), or give a folder of files that are here already"
        ) from error
    jobs = {}
    with DandiAPIClient() as client:
        for asset in client.get_dandiset(dandiset, version).get_assets():
            name = PurePosixPath(asset.path).name
            if is_session(name):
                # The address of the content itself: it does not expire, and its version is that of the download.
                url = asset.get_content_url(regex="s3", follow_redirects=1, strip_query=True)
                file = list_files(url, ("",))[0]
                key = f"{dataset}/{session_of(name)}"
                jobs[key] = {"path": url, "version": file.version, "size": file.size, "recording_id": key}
    return dict(sorted(jobs.items()))


def is_session(name: str) -> bool:
    """Whether a file is a session's, by name: not the LFP of a probe."""
    return name.endswith(".nwb") and not (name.startswith("probe_") or "_probe-" in name or "_lfp" in name)


def session_of(name: str) -> str:
    """Session id in a file name such as `sub-1_ses-715093703.nwb` or `ecephys_session_715093703.nwb`; else its stem."""
    found = re.search(r"(?:_ses-|session_)([A-Za-z0-9-]+)", name)
    return found[1] if found else "_".join(name.removesuffix(".nwb").split())
