"""Find the files that travel with the package: notebooks, parameterized notebooks, sweep files, pages to read.

In a checkout they are beside the package, in the folders that people edit. A wheel has a copy of them in `faal_lab/share`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from faal_lab.errors import RunFolderError, check_name

_PACKAGE = Path(__file__).resolve().parents[1]
_SHARE = _PACKAGE / "share"
HOME = _SHARE if _SHARE.is_dir() else _PACKAGE.parent  # of an installed wheel, or the checkout
_FOLDERS = ("notebooks", "parameterized", "reproduce", "docs")
_SUFFIXES = {".ipynb", ".yaml", ".md", ".json", ".jsonl", ".safetensors", ".npz"}
MAP = "notebooks/00_map.ipynb"


def in_checkout() -> bool:
    """Return whether the package runs from a checkout, so that the files are the user's own to edit."""
    return HOME != _SHARE


def sweep_file(name: str | Path) -> Path:
    """Return the sweep file of a path, or of a name such as "digits".

    A file that exists is taken before a name. Raises UnknownName for a name that is neither.
    """
    path = Path(name)
    if path.suffix or path.parent != Path() or path.is_file():
        return path
    known = {file.stem: file for file in sorted((HOME / "reproduce").glob("*.yaml"))}
    return known[check_name("sweep", str(name), known)]


def files() -> list[str]:
    """List the files that travel, relative to HOME: what `faal-lab notebooks copy` writes."""
    found = [path for folder in _FOLDERS for path in sorted((HOME / folder).rglob("*")) if path.suffix in _SUFFIXES]
    names = [path.relative_to(HOME) for path in (*found, HOME / "CONTRIBUTING.md")]
    return [name.as_posix() for name in names if not any(part.startswith((".", "_")) or part == "runs" for part in name.parts)]


def copy_to(folder: str | Path) -> list[Path]:
    """Copy the files into `folder`, where notebooks can be edited and run; return what was written.

    A file that is there already is kept. Raises RunFolderError if `folder` is a file, OSError if it cannot be written.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise RunFolderError(f"{target} is a file; expected a folder for the notebooks, such as my-notebooks.")
    written = []
    for name in files():
        path = target / name
        if not path.exists() and not path.is_symlink():  # a link that leads nowhere is a file to keep: it leads out of the folder
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(HOME / name, path)
            written.append(path)
    return written
