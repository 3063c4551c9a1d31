"""Prepare a checkout for the build of a release: `python .github/prepare_release.py v1.2.3 ADDRESS`.

The repository does not know its own address; the workflow that releases it does. So this script writes the address into
the metadata, and into the links of the README, which the index shows in another place.
"""

import re
import sys
from pathlib import Path


def main(tag: str, address: str) -> None:
    """Refuse a tag that is not the version, and write the address into `pyproject.toml` and `README.md`."""
    project, readme = Path("pyproject.toml"), Path("README.md")
    text = project.read_text("utf-8")
    [version] = re.findall(
        r'^__version__ = "(.+)"$', Path("mithril_losses/__init__.py").read_text("utf-8"), re.MULTILINE
    )
    if tag != f"v{version}":
        sys.exit(f"the tag is {tag}, but the version of the package is {version}")
    files = f"{address}/blob/{tag}"
    urls = {
        "Source": f"{address}/tree/{tag}",
        "Documentation": f"{files}/docs/index.md",
        "Changelog": f"{files}/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }
    table = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    project.write_text(f"{text}\n[project.urls]\n{table}", "utf-8")
    readme.write_text(re.sub(r"\]\((?=docs/)", f"]({files}/", readme.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
