"""Every fairness method, once, from the same robust network: average and worst class beside FAAL's.

    python benchmarks/methods.py            # about 15 minutes on two cores; goes on where it was interrupted
    python benchmarks/methods.py --quick    # a minute, to see that it works

A network is trained by PGD-AT on the digits, then fine-tuned by each method with the objectives it has a meaning for, all for the
same epochs, rates and seed; both objectives without a method are the control arms. A method's own rate that is made for hundreds
of epochs is scaled to these few. Nothing is tuned. One seed and 60 test images a class do not say which method is better: the
intervals are wide. The table is there to show that each of them runs, and what it does.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from side_by_side import machine

from faal_lab.catalogue import FAIRNESS
from faal_lab.evaluation.comparison import compare
from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.statistics import average_accuracy, worst_accuracy
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.progress import shown
from faal_lab.training.parameters import based_on
from faal_lab.training.run import run

Settings = dict[str, Any]
QUICK: Settings = {"epochs": 1, "batch_size": 250, "attack_steps": 2, "validation_steps": 2}

# What a method's authors chose for their number of epochs or samples, brought to four epochs of 1,000 images.
SCALED: dict[str, Settings] = {
    "wat": {"fairness_rate": 0.1 * 100 / 4},
    "frl-rw": {"fairness_rate": 0.05 * 40 / 4, "beta": 1.5},
    "frl-rm": {"fairness_rate": 0.05 * 40 / 4, "beta": 1.5},
    "frl-rwrm": {"fairness_rate": 0.05 * 40 / 4, "beta": 1.5},
    "cfol": {"fairness_rate": 5e-6 * 50_000 * 200 / (1_000 * 4)},
}


def arms() -> dict[str, Settings]:
    """Name -> settings of each fine-tuning: every method with AT and TRADES, as far as it goes with them."""
    from faal_lab.catalogue import check_combination
    from faal_lab.errors import RecipeError

    found: dict[str, Settings] = {}
    for fairness in FAIRNESS:
        for objective in ("at", "trades"):
            try:
                check_combination(objective, fairness, "none")
            except RecipeError:
                continue
            found[f"{fairness}-{objective}"] = {"objective": objective, "fairness": fairness} | SCALED.get(fairness, {})
    found["faal-at-awp"] = found["faal-at"] | {"awp_gamma": 0.005}
    found["faal-trades-awp"] = found["faal-trades"] | {"awp_gamma": 0.005}
    found["none-at-ema"] = found["none-at"] | {"averaging": "ema", "average_decay": 0.97}
    found["cfa-at-fawa"] = found["cfa-at"] | {"averaging": "fawa"}
    return found


def made(out: Path, name: str, config: Config, attacks: tuple[str, ...]) -> Verdicts:
    """The verdicts of a run in `out`; what is already there is not made again."""
    folder = out / name
    if not (folder / "config.json").exists():
        for _ in shown(run(config, folder)):
            pass
    elif RunFolder.open(folder).status() != "done":
        for _ in shown(run(config, folder, resume=True)):
            pass
    verdicts = RunFolder.open(folder).verdicts_file("last")
    return Verdicts.read(verdicts) if verdicts.exists() else evaluate_run(folder, attacks=attacks)


def row(name: str, verdicts: Verdicts, control: Verdicts | None) -> dict[str, Any]:
    """Average and worst class with 95 % intervals for each attack; under the last one, paired with the control arm."""
    found: dict[str, Any] = {"name": name}
    last = list(verdicts.survived)[-1]
    if control is not None:
        right = control.survived[last], verdicts.survived[last]
        paired = compare(verdicts.labels, *right, len(verdicts.class_names), names=("control", name))
        for what, difference in (("average", paired.average), ("worst", paired.worst)):
            found[f"{what} above control"] = [difference.value, difference.low, difference.high, difference.p]
    for attack in verdicts.survived:
        correct, total = verdicts.counts(attack)
        average, (worst, which) = average_accuracy(correct, total), worst_accuracy(correct, total)
        found[attack] = {
            "average": [average.value, average.low, average.high],
            "worst": [worst.value, worst.low, worst.high],
            "worst class": verdicts.class_names[which],
        }
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, the strongest worst class first, base and controls where they fall."""
    attacks = [name for name, value in rows[0].items() if isinstance(value, dict)]
    titles = [f"{a}: average / worst" for a in attacks]
    lines = ["| | " + " | ".join([*titles, "worst class above its control"]) + " |", "|---" * (len(attacks) + 2) + "|"]
    for entry in sorted(rows, key=lambda r: -r[attacks[-1]]["worst"][0]):
        cells = [
            "{:.1f} / **{:.1f}** [{:.1f}, {:.1f}]".format(*(100 * v for v in (e["average"][0], *e["worst"])))
            for e in (entry[a] for a in attacks)
        ]
        value, low, high, _ = (100 * v for v in entry.get("worst above control", [0] * 4))
        cells.append(f"{value:+.1f} [{low:+.1f}, {high:+.1f}]" if "worst above control" in entry else "")
        lines.append(f"| {entry['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make everything, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few batches each; nothing is written unless --json is given")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="folder for the runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the figures go (default: benchmarks/methods.json)")
    options = parser.parse_args()
    small = QUICK if options.quick else {}
    attacks = ("clean", "pgd-20") if options.quick else ("clean", "pgd-20", "autoattack")
    out = options.out.with_name(options.out.name + "-quick") if options.quick else options.out
    common = {"seed": options.seed, "split_seed": options.seed}
    rows = [row("base", made(out, "base", Config.from_mapping({**common, **small}), attacks), None)]
    controls: dict[str, Verdicts] = {}  # objective -> the arm without a method, which comes first
    chosen = arms()
    for number, (name, settings) in enumerate(chosen.items(), start=1):
        print(f"{name} ({number} of {len(chosen)}): {settings}", flush=True)
        base = str(out / "base")
        verdicts = made(out, name, based_on(base, {"base": base, **common, **settings, **small}), attacks)
        rows.append(row(name, verdicts, controls.get(settings["objective"])))
        controls.setdefault(settings["objective"], verdicts)
    print(table(rows))
    path = options.json or (None if options.quick else Path(__file__).with_suffix(".json"))
    if path:
        result = {"machine": machine(), "seed": options.seed, "arms": chosen, "rows": rows}
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"\nWritten: {path}")


if __name__ == "__main__":
    main()
