"""Recipes turn the files people have into recordings. One file and one line in `RECIPES` per source; no torch here."""

from pathlib import Path

RECIPES = {
    "synthetic": "data_recipes.synthetic",
    "luo2025": "data_recipes.luo2025",
    "arrays": "data_recipes.arrays",
    "ibl": "data_recipes.ibl",
    "allen": "data_recipes.allen",
    "brainsets": "data_recipes.brainsets",
    "nwb": "data_recipes.nwb",
}


def summaries() -> str:
    """A line on each recipe: the first of its docstring, read without importing it."""
    lines = []
    for name, module in RECIPES.items():
        with (Path(__file__).parent / f"{module.rpartition('.')[2]}.py").open(encoding="utf-8") as file:
            about = file.readline().strip().strip('"')
        lines.append(f"  {name:<10} {about}")
    return "\n".join(lines)
