"""What to install if a library is missing."""


def missing(what: str, library: str | None, extra: str) -> str:
    """Return the message that something needs a library, and how to install the extra that brings it.

    No package index has `mithril-losses` yet, so it is installed from a clone or from a wheel.

    Example:
        >>> missing("a table", "pyarrow", "data")
        "a table needs pyarrow, which is not installed: pip install '.[data]' in a clone, or 'FILE.whl[data]'"
    """
    how = f"pip install '.[{extra}]' in a clone, or 'FILE.whl[{extra}]'"
    return f"{what} needs {library}, which is not installed: {how}"
