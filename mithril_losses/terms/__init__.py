"""The language of terms: the source of a function in plain array notation is turned into a small tree."""
