"""Lists of IBL sessions and insertions, such as the freezes of the Brain Wide Map; asks no table of sessions."""

from __future__ import annotations

import uuid
from pathlib import Path

import pandas as pd

_COLUMNS = {"probe_name": "probe", "probe": "probe", "eid": "eid", "pid": "pid"}


def read_list(path: str) -> pd.DataFrame:
    """A list of sessions or insertions as columns `eid` or `pid`, and `probe` when it names probes.

    Raises:
        ValueError: Not a table, or without such a column.
    """
    try:
        if Path(path).suffix in (".pqt", ".parquet"):
            table = pd.read_parquet(path).reset_index()
        else:
            table = pd.read_csv(path, dtype=str, comment="#", skipinitialspace=True)
            if len(table.columns) == 1 and _is_uuid(table.columns[0]):
                table = pd.read_csv(path, dtype=str, comment="#", names=["eid"], skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"ibl: list={path}: cannot be read as text, CSV or parquet ({error})") from None
    table = table.rename(columns=_COLUMNS)
    table = table[[name for name in ("eid", "pid", "probe") if name in table]].dropna().astype(str)
    table = table.apply(lambda column: column.str.strip())
    if not {"eid", "pid"} & set(table.columns):
        raise ValueError(f"ibl: list={path}: no column 'eid' or 'pid'; give it a header line that names its columns")
    return table


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
