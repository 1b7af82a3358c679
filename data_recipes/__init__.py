"""Recipes turn the files people have into recordings. One file and one line in `RECIPES` per source; no torch here."""

RECIPES = {
    "synthetic": "data_recipes.synthetic",
    "luo2025": "data_recipes.luo2025",
    "arrays": "data_recipes.arrays",
    "ibl": "data_recipes.ibl",
    "allen": "data_recipes.allen",
    "brainsets": "data_recipes.brainsets",
    "nwb": "data_recipes.nwb",
}
