"""Arithmetic that keeps its digits, reductions and their transposes, and the checks that all arguments pass."""
