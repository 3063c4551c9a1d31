"""Numerically stable arithmetic, reductions and their transposes, and the checks of all arguments."""
