"""The model card of a network that a pipeline keeps: what it is, how it was made, what attacks leave of it, how to use it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.results.formats import as_markdown, result_table
from faal_lab.results.tables import group_rows, notes


def card(weights: Path, about: Mapping[str, Any], verdicts: Iterable[Verdicts]) -> str:
    """The card in Markdown, of the run that `weights` is called after; `verdicts` are its own, one of each set of attacks."""
    run, content = weights.stem, weights.read_bytes()
    settings, label, rounding = about["settings"][run], about["images"]["label"], about["rounding"][run]
    tensors = load_file(weights)
    count = sum(tensor.numel() for name, tensor in tensors.items() if name.endswith((".weight", ".bias")))
    model, filters = settings["model"], settings.get("filters", 0)
    network = f"{model} of {filters} filters" if filters else model
    shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in settings.items())
    tables = []
    for found in verdicts:
        table = result_table(group_rows({run: [found]}), notes({run: found}))
        tables.append(table._replace(title=f"Under attack, {len(found.labels):,} test images"))
    of = f"--model {model}" + (f" --filters {filters}" if filters else "")
    file, epsilon, arm = f"results/{weights.parent.name}/{weights.name}", settings["epsilon"], "base" in settings
    why = "what is said of it can be looked at again" if arm else "fine-tuning takes minutes, not hours"
    started = "" if arm else ", and fine-tuning started from them"
    attacked = as_markdown("", tables).partition("\n\n")[2]  # the card has a title of its own
    return f"""# {weights.name}: a small robust network for {label}

{network}, {count:,} parameters in float16, {len(content) / 1e6:.1f} MB. It takes pixels in [0, 1]; the normalisation is inside.
It is kept so that {why}; nothing else is claimed of it.
SHA-256 `{hashlib.sha256(content).hexdigest()}`.

```sh
faal-lab evaluate {file} {of} \\
    --data cifar10 --download --epsilon {epsilon:.5f} --attacks clean,pgd-20 --images 1000
```
{"" if arm else _TUNED.format(file=file, of=of)}
Made by `python reproduce/cifar10.py`: {shown}; all other settings are defaults.
Rounded to float16 it sees another class than before in {rounding["other class"]} of {rounding["images"]:,} validation images;
the verdicts below are of the rounded weights{started}. They were fixed before any of these attacks on test images. Its
radius is {255 * epsilon:.0f}/255 in L-infinity: nothing is known of others. The images carry no licence of their own
(A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009).

{attacked}"""


_TUNED = """
```sh
faal-lab run --base {file} {of} \\
    --recipe faal-at --protocol finetune-2ep --download --validation none --precision auto --out runs/fair
```

(`--validation none`: which images are held out depends on where they come from, and it has learned from nine tenths of them.)
"""
