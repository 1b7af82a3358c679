"""Imports point one way, the data side stays free of torch, and the packages of the wheel are those that exist."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("foundation", "data_recipes", "eval", "benchmarks")

# From the ground up. A module imports modules of the layers before its own; only a package also imports itself.
LAYERS = [
    ["foundation", "foundation.recording"],
    ["foundation.durable", "foundation.remote_file", "foundation.claims", "foundation.array_file"],
    ["foundation.http_store", "foundation.s3_store"],
    ["foundation.stores"],
    ["foundation.remote"],
    ["foundation.remote_corpus", "foundation.recording_folder"],
    ["foundation.poisson_newton"],
    [
        "foundation.corpus",
        "foundation.strict_yaml",
        "foundation.binning",
        "foundation.splits",
        "foundation.poisson_ridge",
        "foundation.linear_decoders",
    ],
    ["foundation.mixture", "foundation.normalizers", "foundation.dataset_card"],
    ["foundation.push"],
    ["foundation.channels"],
    ["foundation.sampling"],
    ["foundation.masking", "foundation.adapters", "foundation.trunk", "foundation.weight_prior"],
    ["foundation.spiking_statistics"],
    ["foundation.sidecars", "foundation.model_config", "foundation.model_card"],
    ["foundation.model"],
    [
        "foundation.objectives",
        "foundation.optim",
        "foundation.checkpoint",
        "foundation.predict",
        "foundation.sharding",
    ],
    [
        "foundation.embed",
        "foundation.training_data",
        "foundation.ranks",
        "foundation.step_data",
        "foundation.preemption",
        "foundation.progress",
        "foundation.task_basis",
    ],
    ["foundation.rank_loss", "foundation.rank_checkpoint"],
    ["foundation.train"],
    ["foundation.readout_features", "foundation.decoding_features"],
    ["foundation.encoding"],
    ["foundation.readout", "foundation.decoder", "foundation.fingerprint"],
    ["foundation.decoding"],
    ["foundation.finetune"],
    ["foundation.config"],
    ["foundation.pretrain"],
    [
        "foundation.pair_sampling",
        "foundation.offset_encoder",
        "foundation.session_arrays",
        "foundation.tensor_file",
        "foundation.linear_dynamics",
        "foundation.session_networks",
        "foundation.unit_encoder",
        "foundation.unit_views",
    ],
    ["foundation.activity_windows", "foundation.aligned_dynamics", "foundation.unit_identity"],
    ["foundation.contrastive_model"],
    ["foundation.contrastive_heads", "foundation.contrastive_fit"],
    ["foundation.label_arrays"],
    ["foundation.session_data"],
    ["foundation.embedding_bank", "foundation.estimator_options"],
    ["foundation.estimator"],
    ["eval"],
    ["foundation.arguments"],
    ["foundation.__main__"],
    ["benchmarks"],
]
# Sources of recordings stand beside the library: they know its format, and only the command line knows them.
RECIPES_MAY_IMPORT = {
    "foundation.recording",
    "foundation.durable",
    "foundation.array_file",
    "foundation.recording_folder",
    "foundation.corpus",
    "foundation.binning",
    "foundation.claims",
    "foundation.remote",
    "foundation.remote_file",
    "data_recipes",
}
WITHOUT_TORCH = {
    "foundation.recording",
    "foundation.recording_folder",
    "foundation.corpus",
    "foundation.binning",
    "foundation.splits",
    "data_recipes",
}


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> list[tuple[str, int]]:
    """Every name that a file imports, also inside functions, with its line; `from a import b` is a.b for a module b."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.append((full if full in MODULES else str(node.module), node.lineno))
    return names


def layer(name: str) -> tuple[int, str]:
    """Position in `LAYERS`, and the entry there that is the module or the package around it."""
    fits = [
        (len(entry), position, entry)
        for position, entries in enumerate(LAYERS)
        for entry in entries
        if name == entry or (entry != "foundation" and name.startswith(f"{entry}."))
    ]
    assert fits, f"{name} has no layer; add it to LAYERS in {Path(__file__).name}"
    return max(fits)[1:]


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    for target, line in imported(MODULES[name]):
        if target.split(".")[0] not in PACKAGES:
            continue
        where = f"{MODULES[name].relative_to(ROOT)}:{line} imports {target}"
        if name.startswith("data_recipes"):
            assert any(target == m or target.startswith(f"{m}.") for m in RECIPES_MAY_IMPORT), where
        elif target.startswith("data_recipes"):
            assert layer(name) > layer("eval") or not name.startswith("foundation"), where
        else:
            before, inside = layer(target)[0] < layer(name)[0], layer(target) == layer(name)
            assert before or inside, f"{where}, which does not stand before it in LAYERS"


def test_no_two_modules_import_each_other() -> None:
    """Nor any circle of them, in a package."""
    edges = {name: {t for t, _ in imported(path) if t in MODULES and t != name} for name, path in MODULES.items()}
    while free := [name for name, targets in edges.items() if not targets]:
        for name in free:
            del edges[name]
        for targets in edges.values():
            targets.difference_update(free)
    assert not edges, f"these import each other, or what does: {sorted(edges)}"


@pytest.mark.parametrize("name", [n for n in MODULES if any(n == m or n.startswith(f"{m}.") for m in WITHOUT_TORCH)])
def test_the_data_side_is_free_of_torch(name: str) -> None:
    heavy = {"torch", "transformers", "accelerate", "datasets"}
    for target, line in imported(MODULES[name]):
        assert target.split(".")[0] not in heavy, f"{MODULES[name]}:{line} imports {target}"


def test_the_data_side_loads_no_torch() -> None:
    """Nor does anything that it imports."""
    names = ["foundation.splits", "foundation.binning", "data_recipes.recipe", "data_recipes.synthetic"]
    code = f"import sys, {', '.join(names)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", MODULES)
def test_no_file_unpickles_or_shadows_a_builtin(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text())
    for node in ast.walk(tree):
        where = f"{MODULES[name].relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name != "eval", f"{where}: `import eval` hides the builtin; use `from eval.x import y`"
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            assert (module or "").split(".")[0] not in {"pickle", "joblib", "dill", "cloudpickle"}, where
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            safe = node.arg == "weights_only"
            assert isinstance(node.value, ast.Constant), where
            assert node.value.value is safe, f"{where}: {node.arg}={node.value.value} would unpickle"


def test_packages_of_the_wheel_are_those_that_exist() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = document["tool"]["setuptools"]["packages"]
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    # Timings are run from a checkout.
    assert set(listed) == folders - {"benchmarks"}
    for package in folders:
        folder = ROOT / package.replace(".", "/")
        inside = [sub for sub in folder.iterdir() if sub.is_dir() and list(sub.glob("*.py"))]
        for sub in inside:
            assert (sub / "__init__.py").exists(), f"{sub} holds modules but no __init__.py"


def test_the_test_itself_sees_a_wrong_import(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from foundation import train\n    import eval.metrics\n")
    assert imported(wrong) == [("foundation.train", 2), ("eval.metrics", 3)]
    assert layer("foundation.train")[0] > layer("foundation.recording")[0]
    assert layer("foundation.objectives.contrastive") == layer("foundation.objectives")
    assert layer("foundation.trunk") != layer("foundation.adapters")
    with pytest.raises(AssertionError, match="has no layer"):
        layer("foundation.utils")
