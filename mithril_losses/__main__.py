"""The command line as `python -m mithril_losses`."""

from mithril_losses.cli import main

if __name__ == "__main__":
    main()
