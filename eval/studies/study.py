"""What a study is and how one is run: a YAML with its name and fields in, findings with their provenance out.

Knows no study; `eval.studies.STUDIES` names them. The page is `eval.studies.page`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import platform
import re
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib import figure as mpl

from eval.studies import STUDIES
from eval.studies.page import page
from foundation.durable import dump_json, read_json, sha256_of, write_atomic
from foundation.strict_yaml import from_dict, read_yaml

PACKAGES = ("foundation", "numpy", "scipy", "pandas", "scikit-learn", "torch", "cebra", "umap-learn", "ripser")
DPI = 160


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: Of its CSV file, in lower case with underscores.
        caption: What it shows: units, n, seeds, what is held out.
        frame: Its columns; the index is not written, so `reset_index()` first if it means something.
    """

    name: str
    caption: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: Of its PNG file, in lower case with underscores.
        caption: What it shows: units, n, seeds, what is held out.
        figure: Made without pyplot.
    """

    name: str
    caption: str
    figure: mpl.Figure


@dataclass(frozen=True)
class Findings:
    """What a study found.

    Attributes:
        title: Of the page.
        question: What was asked, in a sentence or two.
        tables: Numbers, best first.
        figures: In the order of reading.
        remarks: What the numbers say and what they do not, one sentence or two each.
    """

    title: str
    question: str
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse what could not be written, before hours of work are lost on it."""
        names = [*(t.name for t in self.tables), *(f.name for f in self.figures)]
        for name in names:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", name):
                raise ValueError(
                    f"table or figure {name!r}: expected a name of lower-case letters, digits and underscores"
                )
            if names.count(name) > 1:
                raise ValueError(f"{name!r} names {names.count(name)} tables and figures; expected different names")
        for table in self.tables:
            if table.frame.index.name is not None or not pd.api.types.is_integer_dtype(table.frame.index):
                raise ValueError(f"table {table.name!r}: its index would be lost; call reset_index() on the frame")


def load_study(path: str | Path, overrides: list[str] | None = None) -> tuple[str, Any, Any]:
    """Name, module and `Config` of the study that a YAML file describes.

    Args:
        path: YAML with `study: NAME` and fields of that study's `Config`.
        overrides: `field=value`, with a YAML value.

    Raises:
        ValueError: No or unknown study, unknown field or wrong value, naming it and what is accepted.
    """
    raw = read_yaml(path, overrides)
    name = raw.pop("study", None)
    if name not in STUDIES:
        raise ValueError(f"config {path}: got study {name!r}, expected `study:` to be one of {sorted(STUDIES)}")
    module = importlib.import_module(STUDIES[name])
    return name, module, from_dict(module.Config, raw)


def run_study(path: str | Path, overrides: list[str] | None = None, out: str | Path | None = None) -> Path:
    """Run the study of a YAML file and write what it found.

    Args:
        path: As for `load_study`.
        overrides: As for `load_study`.
        out: Folder; default `results/studies/NAME`, with the name of the YAML file.

    Returns:
        The page, `index.html`.

    Raises:
        ValueError: As `load_study` and `write_findings`, and whatever the study refuses.
    """
    name, module, config = load_study(path, overrides)
    folder = Path(out or f"results/studies/{Path(path).stem}")
    _listed(folder)  # a folder that would be refused is refused before the work
    begun, cpu = time.perf_counter(), time.process_time()
    inputs = inputs_of(config)
    findings = module.run(config)
    return write_findings(
        findings,
        folder,
        {
            "study": name,
            "config": dataclasses.asdict(config),
            "inputs": inputs,
            "versions": versions(),
            "seconds": {"wall": time.perf_counter() - begun, "cpu": time.process_time() - cpu},
        },
    )


def write_findings(findings: Findings, out: str | Path, provenance: dict[str, Any]) -> Path:
    """Write `findings.json`, a CSV per table, a PNG per figure and a page that needs none of them.

    Each file appears whole; `findings.json` goes first and comes last, so a folder that has one is complete. Files of
    earlier findings there that are not written again are removed, and no others.

    Args:
        findings: Names of tables and figures are file names, so they must differ.
        out: Folder, new, empty or with earlier findings.
        provenance: What the findings depend on, such as `config`, `inputs` and `versions`; JSON values.

    Returns:
        The page, `index.html`.

    Raises:
        ValueError: A name that cannot be a file's or stands twice, a meaningful index, or a folder of other things.
    """
    out = Path(out)
    files = _files(findings)
    document = _document(findings, provenance)
    images = {f.name: files[f"{f.name}.png"] for f in findings.figures}
    files["index.html"] = page(document, images).encode()
    earlier = _listed(out)
    (out / "findings.json").unlink(missing_ok=True)
    for name in earlier - set(files):
        (out / name).unlink(missing_ok=True)
    for name, data in files.items():
        write_atomic(out / name, data)
    write_atomic(out / "findings.json", dump_json({**document, "files": sorted(files)}))
    return out / "index.html"


def inputs_of(config: Any) -> dict[str, str]:
    """Path and SHA-256 of every file that a config names; of a corpus its manifest, which holds the others' hashes.

    Of any other folder it is the hash of the names and hashes of its files.

    Args:
        config: A dataclass whose strings, also in lists, may be paths.
    """
    found = {}
    for value in dataclasses.asdict(config).values():
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str) or not text or "://" in text:
                continue
            path = Path(text)
            if (path / "manifest.json").is_file():
                path = path / "manifest.json"
            if path.is_file():
                found[str(path)] = sha256_of(path)
            elif path.is_dir():
                parts = [f"{p.relative_to(path)} {sha256_of(p)}\n" for p in sorted(path.rglob("*")) if p.is_file()]
                found[str(path)] = hashlib.sha256("".join(parts).encode()).hexdigest()
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers may depend on, and the threads of torch."""
    import torch

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {**found, "torch threads": str(torch.get_num_threads())}


def _listed(out: Path) -> set[str]:
    """Files of the findings in a folder; none if it is new or empty."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return set()
    if not out.is_dir():
        raise ValueError(f"{out}: is a file, expected a folder for the findings; give another with --out")
    try:
        names = read_json(out / "findings.json").get("files", [])
    except ValueError:
        # Interrupted while it was written: the page is there, or only files of ours to be.
        names = None
    if names is None:
        if all(p.suffix in (".png", ".csv", ".html") or p.name.startswith(".") for p in out.iterdir()):
            return set()
        raise ValueError(f"{out}: holds other files and no findings.json; give an empty folder with --out")
    return {str(name) for name in names if Path(str(name)).name == name}


def _files(findings: Findings) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for table in findings.tables:
        files[f"{table.name}.csv"] = table.frame.to_csv(index=False).encode()
    for drawn in findings.figures:
        buffer = io.BytesIO()
        drawn.figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        files[f"{drawn.name}.png"] = buffer.getvalue()
    return files


def _document(findings: Findings, provenance: dict[str, Any]) -> dict[str, Any]:
    tables = [
        {"name": t.name, "caption": t.caption, "columns": [str(c) for c in t.frame.columns], "rows": _rows(t.frame)}
        for t in findings.tables
    ]
    return {
        "title": findings.title,
        "question": findings.question,
        "remarks": list(findings.remarks),
        "tables": tables,
        "figures": [{"name": f.name, "caption": f.caption} for f in findings.figures],
        "provenance": provenance,
    }


def _rows(frame: pd.DataFrame) -> list[list[Any]]:
    """Values as JSON has them: what is missing or infinite is null."""

    def plain(value: Any) -> Any:
        value = value.item() if isinstance(value, np.generic) else value
        if value is None or value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
            return None
        return value if isinstance(value, (bool, int, float, str)) else str(value)

    return [[plain(v) for v in row] for row in cast(Any, frame).itertuples(index=False, name=None)]
