"""Loops that are written as text and compiled for the CPU by numba."""
