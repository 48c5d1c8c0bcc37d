"""Benign or malignant: a small classifier of measurements of cell nuclei."""
