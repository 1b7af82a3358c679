"""Which IBL sessions to prepare: by release, subject, lab, session, insertion or list, offline or with an account.

Offline (`mode=local`) ONE's tables in the cache folder are read, or the folder tree where there are none; nothing is
written there. With an account (`mode=remote`) ONE asks Alyx and downloads. Nothing here reads recorded data.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import unicodedata
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from one.alf.cache import load_tables, make_parquet_db

from data_recipes.ibl_lists import read_list

if TYPE_CHECKING:
    from one.api import OneAlyx

ALYX = "https://openalyx.internationalbrainlab.org"
ACCOUNT = (
    "mode=remote needs your own account of the public database (free, "
    f"{ALYX}/signup): store it once with `python -c 'from one.api import ONE; ONE.setup()'`, or set the environment "
    "variables ALYX_LOGIN and ALYX_PASSWORD, or ALYX_TOKEN. On a node without a network use mode=local"
)


@dataclass(frozen=True)
class Session:
    """One session as ONE's tables know it.

    Attributes:
        eid: UUID.
        lab: Lab.
        subject: The animal, in Unicode normal form C, so that one animal has one name on every file system.
        date: ISO date.
        number: Of the session on that day.
        path: Folder, relative to the cache.
        datasets: Rows of ONE's datasets table.
    """

    eid: str
    lab: str
    subject: str
    date: str
    number: int
    path: str
    datasets: pd.DataFrame


@dataclass(frozen=True)
class Selection:
    """What the user asked for; sessions that meet all of it are taken, without any of it all sessions.

    Attributes:
        tag: Data release, such as "2023_12_bwm_release".
        subject: Names.
        lab: Names.
        eid: Sessions.
        pid: Insertions.
        list: Text, CSV or parquet file with a column `eid` or `pid`; a text without a header lists eids. With `eid`
            and `probe_name` in it, as in the freezes of the Brain Wide Map, no table of insertions is needed.
    """

    tag: str | None = None
    subject: list[str] | None = None
    lab: list[str] | None = None
    eid: list[str] | None = None
    pid: list[str] | None = None
    list: str | None = None

    @property
    def named(self) -> bool:
        """Whether the user named sessions one by one."""
        return bool(self.eid or self.pid or self.list)


def select(root: Path, remote: bool, selection: Selection) -> list[tuple[Session, list[str] | None]]:
    """The sessions asked for, in order of date and subject, each with the probes asked for (None for all).

    Args:
        root: ONE's cache folder.
        remote: Whether to ask the database.
        selection: What to take.

    Raises:
        ValueError: No tables, nothing found, two sessions with one subject, date and number, or no account.
    """
    if remote and not (selection.tag or selection.named or selection.subject or selection.lab):
        raise ValueError("ibl: mode=remote without a choice is the whole database; give tag, subject, lab, eid or list")
    if remote and selection.tag:
        connect(str(root)).load_cache(tag=selection.tag)
    if remote and not selection.tag:
        wanted, sessions, datasets = _ask(connect(str(root)), selection)
    else:
        sessions, datasets, insertions = _tables(root, selection.tag)
        wanted = _named(
            selection, connect(str(root)).pid2eid if remote else lambda pid: insertions.get(pid, (None, None))
        )
    for column, names in (("subject", selection.subject), ("lab", selection.lab)):
        if names:
            sessions = sessions[sessions[column].map(_one_form).isin([_one_form(name) for name in names])]
    if wanted is not None:
        _warn_absent(root, set(wanted) - set(sessions.index))
        sessions = sessions[sessions.index.isin(list(wanted))]
    if sessions.empty:
        raise ValueError(f"ibl: no session in {root} meets {selection}")
    sessions = sessions.sort_values(["date", "subject", "number"], kind="stable")
    _refuse_twice(sessions)
    groups = {str(eid): group for eid, group in datasets[datasets["eid"].isin(sessions.index)].groupby("eid")}
    return [
        (_session(root, eid, row, groups.get(eid, datasets[:0])), None if wanted is None else wanted[eid])
        for eid, row in zip(sessions.index, sessions.to_dict("records"))
    ]


@functools.cache
def connect(root: str) -> OneAlyx:
    """ONE with the user's own account and its downloads in `root`; one per process.

    Raises:
        ValueError: No account, or no connection.
    """
    from one.api import OneAlyx

    names = {"username": "ALYX_LOGIN", "password": "ALYX_PASSWORD", "token": "ALYX_TOKEN"}
    account = {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}
    try:
        one = OneAlyx(base_url=ALYX, cache_dir=root, mode="remote", silent=not sys.stdin.isatty(), **account)
        if not one.alyx.is_logged_in:
            one.alyx.authenticate()
    except (ValueError, OSError, EOFError) as error:  # requests' errors are OSErrors; none is shown, nor what it holds
        raise ValueError(f"ibl: no connection to {ALYX} ({type(error).__name__}). {ACCOUNT}") from None
    return one


def session_uuid(path: str) -> str:
    """Id of a session that no table names, from its folder: stable, but not the one of the public database."""
    return str(uuid.uuid3(uuid.NAMESPACE_URL, _one_form(path)))  # version 3: ONE takes no other that is not random


def tables_of_tree(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sessions and datasets of a folder tree, as ONE's `make_parquet_db` finds them, with stable ids; writes nothing.

    Returns:
        Sessions by `id`: `lab`, `subject`, `date`, `number`...; datasets by `eid` and `id`.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty tree; the caller says so
        paths = make_parquet_db(root, out_dir=folder, hash_ids=False, hash_files=False)
        sessions, datasets = (pd.read_parquet(path) for path in paths)
    sessions["id"] = sessions["id"].map(session_uuid)
    datasets["id"] = (datasets["eid"] + "/" + datasets["rel_path"]).map(session_uuid)
    datasets["eid"] = datasets["eid"].map(session_uuid)
    _warn_unnamed(root, set(sessions["subject"]))
    return sessions.set_index("id"), datasets.set_index(["eid", "id"])


def _named(selection: Selection, probe_of: Any) -> dict[str, list[str] | None] | None:
    """By eid the probes asked for (None for all); None when sessions are not named. Naming one twice changes nothing.

    `probe_of` maps a pid to its eid and probe, or to (None, None).
    """
    if not selection.named:
        return None
    wanted: dict[str, set[str] | None] = {}
    rows = [(eid, None, None) for eid in selection.eid or []] + [(None, pid, None) for pid in selection.pid or []]
    if selection.list:
        columns = read_list(selection.list).to_dict("list")
        size = len(next(iter(columns.values())))
        rows += zip(*(columns.get(name, [None] * size) for name in ("eid", "pid", "probe")))
    unknown = []
    for eid, pid, probe in rows:
        if eid is None or (pid is not None and probe is None):
            eid, probe = probe_of(pid)
            if eid is None:
                unknown.append(pid)
                continue
        if probe is None:
            wanted[str(eid)] = None
        elif (probes := wanted.setdefault(str(eid), set())) is not None:
            probes.add(str(probe))
    if unknown:
        raise ValueError(
            f"ibl: {len(unknown)} insertions are in no table ({unknown[:3]}...); offline give a list with the columns "
            "eid and probe_name, or an insertions.pqt beside sessions.pqt"
        )
    return {eid: None if probes is None else sorted(probes) for eid, probes in wanted.items()}


def _tables(root: Path, tag: str | None) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, tuple[str, str]]]:
    """Sessions by eid, datasets with a column `eid`, and eid and probe by pid."""
    if not root.is_dir():
        raise ValueError(f"ibl: --source is {root}, expected ONE's cache folder; mode=remote downloads into a new one")
    folder = root / tag if tag and (root / tag / "sessions.pqt").is_file() else root
    if (folder / "sessions.pqt").is_file() and (folder / "datasets.pqt").is_file():
        try:
            loaded = {name: load_tables(folder, f"{name}.pqt") for name in ("sessions", "datasets", "insertions")}
            sessions = loaded["sessions"]["sessions"].astype({"lab": object, "subject": str, "number": int})
            sizes = {"file_size": float, "hash": object}
            datasets = loaded["datasets"]["datasets"].reset_index().astype({"eid": str, "rel_path": str} | sizes)
            sessions["date"].map(str)
        except Exception as error:  # damaged tables raise nearly anything
            raise ValueError(
                f"ibl: tables in {folder} cannot be read ({error}); one.alf.cache.make_parquet_db makes them anew, or "
                "remove them to have the folders read"
            ) from None
        raw = loaded["sessions"]["_meta"]["raw"]["sessions"]
        if tag and folder == root and tag not in str(raw.get("database_tags", "")):
            raise ValueError(
                f"ibl: no tables of the release {tag!r} in {root}; fetch them once with mode=remote, or give "
                "list=<file of eids>"
            )
        insertions = loaded["insertions"].get("insertions")
    elif tag:
        raise ValueError(f"ibl: tag={tag} needs ONE's tables in {root / tag}; fetch them once with mode=remote")
    else:
        (sessions, datasets), insertions = tables_of_tree(root), None
        datasets = datasets.reset_index()
    if sessions.empty:
        raise ValueError(
            f"ibl: no session in {root}, expected <lab>/Subjects/<subject>/<date>/<number>/alf; give mode=remote to "
            "download sessions into it"
        )
    probes = {}
    if insertions is not None:
        probes = {str(pid): (str(eid), str(name)) for (eid, pid), name in insertions["name"].items()}
    sessions = sessions.set_axis(sessions.index.map(str), axis=0)
    return sessions, datasets, probes


def _ask(one: OneAlyx, selection: Selection) -> tuple[dict[str, list[str] | None] | None, pd.DataFrame, pd.DataFrame]:
    """The same from the database: one request per session."""
    wanted = _named(selection, one.pid2eid)
    query = {"subject": selection.subject, "lab": selection.lab}
    eids = [*wanted] if wanted else [str(eid) for eid in one.search(**{k: v for k, v in query.items() if v})]
    rows, tables = [], []
    for eid in eids:
        try:
            table = one.list_datasets(eid, details=True)
        except OSError as error:
            raise ValueError(f"ibl: {eid} is not in the database, or not for you ({type(error).__name__})") from None
        lab, subject, date, number = one.eid2path(eid).session_parts
        rows.append({"id": eid, "lab": lab, "subject": subject, "date": date, "number": int(number)})
        tables.append(table.reset_index(drop=True).assign(eid=eid))
    if not rows:
        raise ValueError(f"ibl: the database has no session that meets {selection}")
    return wanted, pd.DataFrame(rows).set_index("id"), pd.concat(tables, ignore_index=True)


def _session(root: Path, eid: str, row: Mapping[Any, Any], datasets: pd.DataFrame) -> Session:
    subject, date, number = str(row["subject"]), str(row["date"])[:10], int(row["number"])
    lab = str(row["lab"] or "")
    inner = Path(subject, date, f"{number:03d}")
    path = Path(lab, "Subjects", inner) if lab else inner
    # ONE also finds sessions in `Subjects` when the cache folder is that of one lab.
    if not (root / path).is_dir() and (root / "Subjects" / inner).is_dir():
        path = Path("Subjects", inner)
    return Session(eid, lab, _one_form(subject), date, number, path.as_posix(), datasets)


def _refuse_twice(sessions: pd.DataFrame) -> None:
    key = sessions["subject"].map(_one_form) + sessions["date"].astype(str)
    twice = sessions[(key + sessions["number"].astype(str)).duplicated(keep=False)]
    if len(twice):
        first = twice.iloc[0]
        raise ValueError(
            f"ibl: {first['subject']} {first['date']} {first['number']} is there as {list(twice.index[:2])}, labs "
            f"{sorted(set(twice['lab']))}; one session twice would be trained on twice, so select one with eid= or lab="
        )


def _warn_unnamed(root: Path, subjects: set[str]) -> None:
    """Warn of subjects that ONE passes over in silence."""
    found = {path.parts[-4] for path in [*root.glob("*/Subjects/*/*/*/alf"), *root.glob("Subjects/*/*/*/alf")]}
    if unnamed := sorted(found - subjects):
        warnings.warn(
            f"ibl: subjects {unnamed[:5]} in {root} are left out: ONE takes letters, digits, '.', '_' and '-' (accents "
            "as one character); rename their folders",
            stacklevel=5,
        )


def _warn_absent(root: Path, absent: set[str]) -> None:
    if absent:
        warnings.warn(f"ibl: {len(absent)} sessions asked for are not in {root}: {sorted(absent)[:3]}...", stacklevel=3)


def _one_form(name: str) -> str:
    """Accents in one of their two encodings; file systems differ in which they use."""
    return unicodedata.normalize("NFC", str(name))
