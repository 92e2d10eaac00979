"""Comparisons: maps against maps, poses against truth, and their plots."""
