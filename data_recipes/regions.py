"""Names of brain structures, from one parcellation to another; knows no file and no recording.

Structures are those of the Allen CCF 2017 ontology; parcellations are IBL's (Steinmetz et al. 2019; IBL 2025): `allen`
(as given), `beryl` (308 regions) and `cosmos` (10 divisions of gray matter).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np

PARCELLATIONS = {"allen": "Allen", "beryl": "Beryl", "cosmos": "Cosmos"}

# Labels that say no more than that a channel is in the brain, or nothing. "grey" is the Allen Institute's for gray
# matter whose structure was not identified.
NOWHERE = frozenset({"", "root", "void", "grey", "fiber tracts", "nan", "none", "no area", "unknown"})


def known_regions(names: Iterable[object]) -> np.ndarray:
    """Names as `(N,)` str, "" for those that say nowhere."""
    return np.array(["" if str(name).lower() in NOWHERE else str(name) for name in names], dtype=str)


def map_acronyms(acronyms: Iterable[str], to: str) -> np.ndarray:
    """The region of each acronym in a parcellation.

    Args:
        acronyms: `(N,)` Allen acronyms such as "VISp2/3" or "CA1".
        to: A key of `PARCELLATIONS`.

    Returns:
        `(N,)` object array of str, of the length of `acronyms` (iblatlas' `acronym2acronym` drops what it does not
        know); "" for unknown acronyms, for fibers and ventricles, and where the parcellation says root or void.

    Raises:
        ValueError: No such parcellation.
    """
    if to not in PARCELLATIONS:
        raise ValueError(f"no parcellation {to!r}; there are {sorted(PARCELLATIONS)}")
    given = np.array([str(a) for a in acronyms], dtype=object)
    if not len(given):
        return given
    known = _lookup(PARCELLATIONS[to])
    return np.array([known.get(a, "") for a in given], dtype=object)


@cache
def _lookup(mapping: str) -> dict[str, str]:
    """Region by acronym, for every acronym of the ontology that lies in one of the Cosmos divisions."""
    from iblatlas.regions import BrainRegions  # a second to import and build

    regions = BrainRegions()
    # Cosmos knows gray matter only; where it says root or void are fibers, ventricles, and labels as wide as "CH".
    division, target = (regions.acronym[regions.mappings[name]] for name in ("Cosmos", mapping))
    inside = [str(d).lower() not in NOWHERE and str(t).lower() not in NOWHERE for d, t in zip(division, target)]
    # Both hemispheres have one name; they map alike.
    return {str(a): str(t) for a, t, kept in zip(regions.acronym, target, inside) if kept}
