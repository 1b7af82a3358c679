"""Eye tracking of Visual Behavior sessions in the extension that the AllenSDK writes it in; makes no data."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pynwb
from pynwb.spec import NWBDatasetSpec, NWBGroupSpec, NWBNamespaceBuilder


def add_eye_series(nwb: pynwb.NWBFile, pupil: pd.DataFrame) -> None:
    """Add `acquisition/EyeTracking`: ellipse series of `ndx-ellipse-eye-tracking`, and likely blinks.

    Args:
        nwb: File in the making.
        pupil: `time` (s), `center_x`, `center_y`, half `width` and `height` (px), `phi` (rad), `blink`.
    """
    ellipse_series, ellipse_tracking = _ellipse_types()
    area = np.pi * pupil[["width", "height"]].max(axis=1).to_numpy() ** 2
    series = {
        name: ellipse_series(
            name=name,
            reference_frame="nose",
            data=pupil[["center_x", "center_y"]].to_numpy(),
            area=np.where(pupil["blink"], np.nan, area),
            area_raw=area,
            width=pupil["width"].to_numpy(),
            height=pupil["height"].to_numpy(),
            angle=pupil["phi"].to_numpy(),
            timestamps=pupil["time"].to_numpy(),
            unit="pixels",
        )
        for name in ("eye_tracking", "pupil_tracking", "corneal_reflection_tracking")
    }
    blinks = pynwb.TimeSeries(
        name="likely_blink", data=pupil["blink"].to_numpy(), timestamps=pupil["time"].to_numpy(), unit="N/A"
    )
    nwb.add_acquisition(ellipse_tracking(**series, likely_blink=blinks))


@cache
def _ellipse_types() -> tuple[Any, Any]:
    """Classes of `ndx-ellipse-eye-tracking`, as the AllenSDK defines them."""
    vectors = [
        NWBDatasetSpec(name, dtype="float", shape=(None,), dims=("num_times",), name=name)
        for name in ("area", "area_raw", "width", "height", "angle")
    ]
    series = NWBGroupSpec(
        "ellipse", neurodata_type_def="EllipseSeries", neurodata_type_inc="SpatialSeries", datasets=vectors
    )
    parts = [
        NWBGroupSpec(name, neurodata_type_inc="EllipseSeries", name=name)
        for name in ("eye_tracking", "pupil_tracking", "corneal_reflection_tracking")
    ]
    parts.append(NWBGroupSpec("blinks", neurodata_type_inc="TimeSeries", name="likely_blink"))
    tracking = NWBGroupSpec(
        "eye tracking",
        neurodata_type_def="EllipseEyeTracking",
        neurodata_type_inc="NWBDataInterface",
        name="EyeTracking",
        groups=parts,
    )
    builder = NWBNamespaceBuilder("eye tracking", "ndx-ellipse-eye-tracking", version="0.1.0", author="", contact="")
    for kind in ("SpatialSeries", "TimeSeries", "NWBDataInterface"):
        builder.include_type(kind, namespace="core")
    with TemporaryDirectory() as folder:
        for spec in (series, tracking):
            builder.add_spec("ndx-ellipse-eye-tracking.extensions.yaml", spec)
        builder.export("ndx-ellipse-eye-tracking.namespace.yaml", outdir=folder)
        pynwb.load_namespaces(str(Path(folder, "ndx-ellipse-eye-tracking.namespace.yaml")))
    namespace = "ndx-ellipse-eye-tracking"
    return pynwb.get_class("EllipseSeries", namespace), pynwb.get_class("EllipseEyeTracking", namespace)
