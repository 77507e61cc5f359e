"""What pyproject.toml cannot state: the wheel's notebooks, sweep files and pages, and the README that an index shows."""

import re
import sys
from pathlib import Path
from shutil import copyfile

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))
from faal_lab.sweeps.shipped import HOME, files


class WithShared(build_py):
    """Copies what travels beside the code; an editable install finds it in the checkout."""

    def run(self) -> None:
        """Build the package, then add the files."""
        super().run()
        for name in [] if self.editable_mode else files():
            target = Path(self.build_lib, "faal_lab", "share", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            copyfile(HOME / name, target)


def readme() -> str:
    """Return the README without its pictures and with links to files as plain text: an index has neither."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^!\[.*\n\n?", "", text)
    return re.sub(r"\[([^]]+)\]\((?!https?:)[^)]+\)", r"\1", text)


setup(cmdclass={"build_py": WithShared}, long_description=readme(), long_description_content_type="text/markdown")
