"""Loops that numba compiles, written for float32 and read as text: `compiling.kernel_text` has them in any dtype."""
