"""Result rows on disk: what goes in comes out, and what breaks a rule does not go in."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.results import KEY, ResultRow, read_results, write_results

ROW = ResultRow(
    dataset="luo2025",
    subject="T249",
    session="T249_2020_01_01",
    split="interleaved",
    task="encode",
    model="foundation/adapter",
    kind="model",
    train_trials=0,
    draw=0,
    seed=1,
    metric="bps",
    convention="Pooled over units, null = train mean.",
    value=0.0612345678901,
    n=123_456,
    baseline="GLM E2",
    baseline_value=0.06,
    null="drift only",
    null_value=0.011,
)
BASELINE = replace(
    ROW, model="GLM E2", kind="baseline", seed=0, baseline="", baseline_value=None, null="", null_value=None
)


def test_round_trip_keeps_every_field_order_and_type(tmp_path: Path) -> None:
    rows = [replace(ROW, seed=s, value=ROW.value + s / 7) for s in (2, 0, 1)] + [BASELINE]
    provenance = {"seeds": [0, 1, 2], "data": {"name": "Luo, Kim et al. – µ"}}
    write_results(tmp_path / "new" / "results", rows, provenance)
    frame, read = read_results(tmp_path / "new" / "results")
    assert read == provenance
    assert frame["seed"].tolist() == [2, 0, 1, 0]
    for row, (_, line) in zip(rows, frame.iterrows(), strict=True):
        for name, value in asdict(row).items():
            assert (pd.isna(line[name]) and value is None) or line[name] == value, name
    assert frame["value"].dtype == np.float64
    assert frame["n"].dtype == np.int64
    assert frame["higher_is_better"].dtype == bool


def test_missing_baselines_everywhere_stay_numbers(tmp_path: Path) -> None:
    frame, _ = read_results(write_results(tmp_path, [BASELINE], {}))
    assert frame["baseline_value"].dtype == np.float64
    assert frame["baseline_value"].isna().all()


def test_numpy_numbers_are_accepted(tmp_path: Path) -> None:
    row = replace(ROW, value=np.float32(0.25), n=np.int32(7), seed=np.int64(3))  # type: ignore[arg-type]
    frame, _ = read_results(write_results(tmp_path, [row], {}))
    assert frame.loc[0, ["value", "n", "seed"]].tolist() == [0.25, 7, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": float("nan")}, "value is nan; expected a finite score"),
        ({"value": float("-inf")}, "value is -inf"),
        ({"baseline_value": float("nan")}, "baseline_value is nan"),
        ({"null_value": float("inf")}, "null_value is inf"),
        ({"baseline": ""}, "baseline_value is 0.06; expected a score exactly when `baseline` is named"),
        ({"null_value": None}, "null_value is None"),
        ({"split": "random"}, "split is 'random'; expected one of"),
        ({"kind": "oracle"}, "kind is 'oracle'"),
        ({"convention": ""}, "convention is an empty string"),
        ({"subject": ""}, "subject is an empty string"),
        ({"train_trials": -1}, "train_trials is -1"),
    ],
)
def test_a_bad_row_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=r"session=T249_2020_01_01 .*seed=1") as caught:
        write_results(tmp_path / "out", [BASELINE, replace(ROW, **change)], {})
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_duplicate_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model=foundation/adapter .*there twice"):
        write_results(tmp_path, [ROW, BASELINE, replace(ROW, value=0.5, n=1)], {})


@pytest.mark.parametrize("name", KEY)
def test_rows_that_differ_in_any_part_of_the_key_are_kept(tmp_path: Path, name: str) -> None:
    value = getattr(ROW, name)
    other = "temporal" if name == "split" else value + 1 if isinstance(value, int) else value + "x"
    frame, _ = read_results(write_results(tmp_path, [ROW, replace(ROW, **{name: other})], {}))
    assert len(frame) == 2


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no result row"):
        write_results(tmp_path, [], {})


def test_rows_and_document_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_results(tmp_path / "a", [ROW], {})
    write_results(tmp_path / "b", [BASELINE], {})
    (tmp_path / "a" / "results.parquet").write_bytes((tmp_path / "b" / "results.parquet").read_bytes())
    with pytest.raises(ValueError, match="hash differs"):
        read_results(tmp_path / "a")
    with pytest.raises(ValueError, match="not found; run the evaluation"):
        read_results(tmp_path / "none")
    document = json.loads((tmp_path / "b" / "results.json").read_text())
    (tmp_path / "b" / "results.json").write_text(json.dumps({**document, "schema_version": 99}))
    with pytest.raises(ValueError, match="schema version 99"):
        read_results(tmp_path / "b")
    for changed, message in (
        ([], "expected a JSON object"),
        ({**document, "parquet_sha256": None}, "hash differs"),
        ({**document, "provenance": 3}, "no object 'provenance'"),
    ):
        (tmp_path / "b" / "results.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            read_results(tmp_path / "b")
