"""Six defects that mask gradients, planted into networks that have none: are they found, is anybody accused without?

python benchmarks/planted.py runs/mine runs/other [--plain runs/large] [--images 500] [--out planted.json]

Takes trained run folders of ours; each is tried as it is and with each defect, on its own test images at its own radius, by
clean accuracy, noise and PGD-20; those after --plain as they are alone. What was found stands in the JSON beside the accuracies
with the defect. What is in the JSON already is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import machine
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from faal_lab.data.images import Images, stratified
from faal_lab.evaluation.masking import examine
from faal_lab.evaluation.suite import evaluate
from faal_lab.training.restore import load_model
from faal_lab.training.run import load_data

ATTACKS = ("clean", "noise", "pgd-20")
Forward = Callable[[nn.Module, torch.Tensor], torch.Tensor]


class Wrapped(nn.Module):
    """A network with another way through it."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model, self.change = model, forward

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, C], or what the defect makes of them."""
        return self.change(self.model, images)


def stopped_for_class_3(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """No gradient through what is taken for class 3."""
    logits = model(images)
    return torch.where((logits.argmax(1) == 3)[:, None], logits.detach(), logits)


def resized(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Images a little smaller by chance, in a black frame."""
    whole = images.shape[-1]
    side = int(torch.randint(whole - whole // 4, whole + 1, ()))
    return model(F.pad(F.interpolate(images, side), (0, whole - side, 0, whole - side)))


# name -> (what the forward pass does, the sign that gives it away)
DEFECTS: dict[str, tuple[Forward, str]] = {
    "softmax head": (lambda model, x: model(x).softmax(1), "probabilities"),
    "quantised input": (lambda model, x: model((x * 4).round() / 4), "no gradient"),
    "random resize": (resized, "randomness"),
    "logits x 100": (lambda model, x: 100 * model(x), "saturated"),
    "no gradient in one class": (stopped_for_class_3, "no gradient"),
    "clamp in the loss": (lambda model, x: model(x.clamp(0.02, 0.98)), "stuck pixels"),
}


def looked_for(model: nn.Module, images: Images, names: tuple[str, ...], epsilon: float, norm: str = "linf") -> dict[str, Any]:
    """Accuracies in percent, and the signs found with their classes."""
    verdicts = evaluate(model.eval(), images, names, epsilon=epsilon, norm=norm, attacks=ATTACKS)
    found = examine(model, images, names, verdicts, epsilon=epsilon, norm=norm, seed=0)
    accuracy = {attack: round(100 * float(stands.mean()), 1) for attack, stands in verdicts.survived.items()}
    return {"accuracy": accuracy, "signs": {finding.sign: list(finding.classes) for finding in found}}


def main(arguments: list[str] | None = None) -> None:
    """Try every run with every defect and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--plain", nargs="*", type=Path, default=[], help="runs to try without any defect alone")
    parser.add_argument("--images", type=int, default=500, help="test images, spread over the classes")
    parser.add_argument("--data", default="", help="what the images are called in the JSON (default: the data set's name)")
    parser.add_argument("--out", type=Path, default=Path("planted.json"))
    options = parser.parse_args(arguments)
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    done = {(row["run"], row["defect"]) for row in rows}
    for run in [*options.runs, *options.plain]:
        model, config, _ = load_model(run)
        splits = load_data(config)
        images = splits.test.part(stratified(splits.test.labels, min(options.images, len(splits.test)), splits.num_classes))
        about = {
            "run": run.name, "data": options.data or splits.name, "images": len(images), "network": config.model,
            "filters": config.filters, "objective": config.objective,
        }  # fmt: skip
        wanted = ["none", *(DEFECTS if run in options.runs else ())]
        for defect in tqdm([d for d in wanted if (run.name, d) not in done], desc=run.name):
            changed = Wrapped(model, DEFECTS[defect][0]) if defect != "none" else model
            found = looked_for(changed, images, splits.class_names, config.epsilon, config.norm)
            expected = DEFECTS[defect][1] in found["signs"] if defect != "none" else not found["signs"]
            rows.append({**about, "epsilon": config.epsilon, "defect": defect, "as it should be": expected, **found})
            options.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    print(f"{sum(row['as it should be'] for row in rows)} of {len(rows)} as they should be. Written: {options.out}")


if __name__ == "__main__":
    main()
