"""Executes a notebook in this process: the same cells and parameters as by papermill, without a kernel to start."""

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

ROOT = Path(__file__).parent.parent


@dataclass
class Executed:
    """What the code cells of a notebook showed, cell by cell, and the error that ended it."""

    shown: list[str] = field(default_factory=list)
    error: BaseException | None = None
    names: dict[str, Any] = field(default_factory=dict)  # what stands in the notebook's namespace at the end

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self.shown)


def execute(notebook: str, folder: Path, parameters: dict[str, Any] | None = None) -> Executed:
    """Run the cells of `notebook` (a path below the project) in `folder`; ends at the first error, as papermill does."""
    read = load_notebook_node(str(ROOT / notebook))
    if parameters:
        read = parameterize_notebook(read, parameters)
    shell, executed = InteractiveShell(), Executed()
    with contextlib.chdir(folder), _same_environment():
        for cell in read.cells:
            if cell.cell_type != "code":
                continue
            with capture_output() as said:
                result = shell.run_cell(cell.source)
            outputs = [json.dumps(output.data, default=str) for output in said.outputs]
            if result.result is not None:  # a cell's last expression
                outputs.append(json.dumps(shell.display_formatter.format(result.result)[0], default=str))
            executed.shown.append("\n".join([said.stdout, said.stderr, *outputs]))
            executed.error = result.error_before_exec or result.error_in_exec
            if executed.error is not None:
                break
    executed.names = shell.user_ns
    return executed


@contextlib.contextmanager
def _same_environment():
    """Leave the environment as it was."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
