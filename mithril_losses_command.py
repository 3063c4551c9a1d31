"""The command `mithril-losses`: outside of the package, so that Ctrl-C is one line while the package is imported."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from mithril_losses.cli import main as command
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    command()
