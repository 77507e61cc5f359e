"""Make the readable copies of the notebooks: python docs/render.py [01 05 ...]

Each is executed as a whole and kept as Markdown with its pictures as PNG in docs/notebooks/, to be read where no kernel is.
Takes about five minutes; needs kaleido and Chromium (the `pictures` extra).
"""

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nbconvert import MarkdownExporter
from nbformat import reads
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "notebooks"
MOST, TOGETHER = 400_000, 2_000_000  # bytes
EMPTY = "\u200b"  # a place for a picture that only a browser makes
_WIDGET = "application/vnd.jupyter.widget-view+json"
_SAID = "*(Controls that move: open the notebook, `faal-lab lab`.)*"


def executed(notebook: Path, folder: Path) -> dict[str, Any]:
    """The notebook run from top to bottom by papermill, its figures drawn as PNG."""
    place = folder / "notebooks"
    place.mkdir(exist_ok=True)
    copy, done = folder / notebook.name, folder / f"done-{notebook.name}"
    copy.write_text(notebook.read_text(encoding="utf-8").replace("plotly_mimetype", "png"), encoding="utf-8")
    words = [sys.executable, "-m", "papermill", str(copy), str(done), "-k", "python3", "--no-progress-bar", "--cwd", str(place)]
    found = subprocess.run(words, capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(f"{notebook.name} failed:\n{found.stderr[-2000:]}")
    return json.loads(done.read_text(encoding="utf-8"))


def cleaned(page: dict[str, Any]) -> dict[str, Any]:
    """Without what is of one machine or needs a kernel: warnings, parameters given by papermill, widgets, the installing cell."""
    page["cells"] = [cell for cell in page["cells"] if "install" not in cell["metadata"].get("tags", [])]
    for cell in page["cells"]:
        outputs = [o for o in cell.get("outputs", []) if o.get("name") != "stderr"]
        for output in outputs:  # a bar's lines have times of one machine
            if output.get("name") == "stdout":
                output["text"] = re.sub(r"(?m)^(training|evaluate [\w-]+): .*\n", "", "".join(output["text"]))
        outputs = [o for o in outputs if o.get("name") != "stdout" or o["text"]]
        outputs = [o for o in outputs if o.get("data") != {"text/plain": EMPTY}]
        for output in outputs:
            if _WIDGET in output.get("data", {}):
                output["data"] = {"text/markdown": _SAID}
            elif "image/png" in output.get("data", {}):
                output["data"] = {"image/png": output["data"]["image/png"]}
        if "outputs" in cell:
            cell["outputs"] = outputs
    return page


def small(png: bytes) -> bytes:
    """The picture with at most 128 colours, a third of the size; these figures have few."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        white.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return file.getvalue()


def render(notebook: Path, folder: Path) -> int:
    """Write one copy and its pictures; returns their size in bytes. Raises RuntimeError where it would name this machine."""
    page = reads(json.dumps(cleaned(executed(notebook, folder))), as_version=4)
    files = OUT / f"{notebook.stem}_files"
    shutil.rmtree(files, ignore_errors=True)
    text, resources = MarkdownExporter().from_notebook_node(page, resources={"output_files_dir": files.name})
    text = re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](\1.md)", text)  # links between copies, and out of this deeper folder
    text = text.replace("](../docs/", "](../").replace("](../CONTRIBUTING", "](../../CONTRIBUTING")
    named = [word for word in (str(ROOT), str(Path.home()), tempfile.gettempdir()) if f"{word}/" in text]
    if named:
        raise RuntimeError(f"{notebook.name} prints a path of this machine: {named}")
    pictures = {OUT / name: small(content) for name, content in resources["outputs"].items()}
    for path, content in {**pictures, OUT / f"{notebook.stem}.md": text.encode()}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    size = sum(map(len, pictures.values())) + len(text.encode())
    if size > MOST:
        raise RuntimeError(f"{notebook.name} takes {size} bytes; at most {MOST} are wanted. Show fewer pictures.")
    return size


def main(wanted: list[str]) -> None:
    """Render the notebooks whose names begin with one of `wanted`, or all."""
    with tempfile.TemporaryDirectory() as folder:
        for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
            if not wanted or notebook.name[:2] in wanted:
                print(f"{notebook.name}: {render(notebook, Path(folder)):,} bytes", flush=True)
    total = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file())
    print(f"all: {total:,} bytes")
    if total > TOGETHER:
        raise RuntimeError(f"All copies take {total} bytes; at most {TOGETHER} are wanted.")


if __name__ == "__main__":
    main(sys.argv[1:])
