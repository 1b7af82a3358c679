"""Recipes turn the files people have into recordings. One file and one line in `RECIPES` per source; no torch here."""
