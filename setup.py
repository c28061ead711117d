"""Build hook: an installed package carries the formula, the orchestrations and the data beside its code."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DATA = {"salt": "_formula", "orch": "_formula/orch", "pillar": "_example", "images": "_images"}


class BuildWithFormula(build_py):
    """Copy the data folders into the package; in a checkout they are used where they are."""

    def run(self) -> None:
        """Run the ordinary step, then add the data."""
        super().run()
        root = Path(__file__).resolve().parent
        for source, target in DATA.items():
            destination = Path(self.build_lib) / "kolla_salt" / target
            if (root / source).is_dir():
                # The loader finds modules through the package's entry point: the links in salt/_* are for checkouts.
                ignore = shutil.ignore_patterns(
                    "_modules", "_states", "_beacons", "_runners", "_renderers", "_pillar", "orch"
                )
                shutil.copytree(root / source, destination, ignore=ignore, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithFormula})
