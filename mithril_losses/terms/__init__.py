"""The language of terms: from the source of a function of plain array notation to a small tree."""
