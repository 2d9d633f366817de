"""Prints the lowest versions that setup.cfg allows of what the tests take, as requirements; see `make test-oldest`."""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

SETUP = Path(__file__).parents[1] / "setup.cfg"


def oldest(extra: str = "test") -> Iterator[str]:
    """Yield `name==version` for every requirement of the package and of an extra that holds here.

    The package's own requirements are taken by name where an extra states another bound. Those of the extras' extras
    come through `%(name)s`.
    """
    parser = configparser.ConfigParser()
    parser.read(SETUP)
    lines = [*parser["options"]["install_requires"].split("\n"), *parser["options.extras_require"][extra].split("\n")]
    for line in filter(None, lines):
        needed = Requirement(line)
        bounds = [spec.version for spec in needed.specifier if spec.operator == ">="]
        if bounds and (needed.marker is None or needed.marker.evaluate()):
            extras = f"[{','.join(sorted(needed.extras))}]" if needed.extras else ""
            yield f"{needed.name}{extras}=={bounds[0]}"


if __name__ == "__main__":
    print("\n".join(oldest()))
