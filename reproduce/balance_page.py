"""What a bias of each class does: the page, from the counts and verdicts in its folder.

    python reproduce/balance_page.py results/balance                                              # make the page again
    python reproduce/balance_page.py results/balance --digits runs/digits-balance --cifar10 runs/balance-cifar10

The second form first copies what the sweep `digits-balance.yaml` and `balance_cifar10.py` have found. Writes README.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cifar10_found import points, with_the_others
from leaderboard import Mean, holm, p_value
from leaderboard_page import counts_csv, made_by

from faal_lab.data.images import stratified
from faal_lab.evaluation.comparison import Difference
from faal_lab.evaluation.groups import grouped, read_seeds
from faal_lab.evaluation.statistics import average_accuracy, worst_accuracy
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.results.formats import Table, as_markdown
from faal_lab.results.tables import ATTACK_TITLES, comparisons
from faal_lab.runs import RunFolder
from faal_lab.runs.events import Balanced
from faal_lab.runs.files import replace_file

KEPT = Path(__file__).parents[1] / "results" / "cifar10-narrow"
DIGITS = ("base", "control", "faal", "faal-awp", "frl-rw")
CIFAR = {"at": "base", "at-control": "control", "at-faal": "FAAL", "at-faal-awp": "FAAL-AWP"}
WITH = "-balanced"
ATTACKS = ("clean", "pgd-20", "cw-20", "apgd-ce+t")
# The four questions of balance-protocol.md: the network asked about, and the one that it is held against.
QUESTIONS = (("base+", "base"), ("base+", "faal"), ("control+", "faal"), ("faal+", "faal"))
_HEAD = ["network", "average, %", "worst class, %", "worst three, %", "with bias: average", "worst class", "worst three",
         "difference: average, points", "worst class, points"]  # fmt: skip

Accuracies = Mapping[str, np.ndarray]  # run -> [seeds, classes], in percent


def collect(folder: Path, digits: Path | None, cifar10: Path | None) -> None:
    """Copy counts, verdicts and rounds into the folder of results."""
    folder.mkdir(parents=True, exist_ok=True)
    about = json.loads((folder / "about.json").read_text()) if (folder / "about.json").is_file() else {}
    if digits is not None:
        texts = json.loads((digits / "jobs" / "report" / "order.json").read_text())["parameters"]["runs"].split(",")
        replace_file(folder / "counts.csv", counts_csv(read_seeds(texts)))
        folders = grouped(texts)
        chosen = {n: [found(Path(run)) for run in runs] for n, runs in folders.items() if n.endswith(WITH)}
        about["digits"] = {"made by": made_by(folders), "rounds": {n: [e.chosen for e in events] for n, events in chosen.items()}}
    if cifar10 is not None:
        for name in CIFAR:
            run = RunFolder.open(cifar10 / f"{name}{WITH}")
            _keep(run, (), folder / f"{name}{WITH}.npz")
            event = found(run.path)
            kept = {"bias": event.bias[event.chosen], "chosen": event.chosen, "count": event.count, "correct": event.correct}
            about.setdefault("cifar10", {})[name] = kept
        about["cifar10"]["made by"] = made_by({n: [str(cifar10 / f"{n}{WITH}")] for n in CIFAR})
        strong = RunFolder(cifar10 / f"at{WITH}-strong")
        for classes in ((), ("cat", "deer")):
            if strong.verdicts_file("last", classes).is_file():
                _keep(strong, classes, folder / f"{'-'.join([f'at{WITH}-autoattack', *classes])}.npz")
    replace_file(folder / "about.json", json.dumps(about, indent=1).encode() + b"\n")


def _keep(run: RunFolder, classes: Sequence[str], file: Path) -> None:
    """Keep verdicts without their images, and without what they say of the folder."""
    verdicts = Verdicts.read(run.verdicts_file("last", classes))
    header = {key: value for key, value in verdicts.header.items() if key != "note"}
    replace_file(file, replace(verdicts, examples=None, header=header).to_bytes())


def found(run: Path) -> Balanced:
    """The balance of a run."""
    return next(event for event in RunFolder.open(run).events() if isinstance(event, Balanced))


def accuracies(folder: Path, attack: str) -> Accuracies:
    """Each class of each digits network, in percent."""
    rows = pd.read_csv(folder / "counts.csv", dtype={"class": str}).query("attack == @attack")
    rows["share"] = 100 * rows["stand"] / rows["images"]
    rows["run"] = rows["run"].str.rpartition("/")[2]
    return {str(run): some.pivot(index="seed", columns="class", values="share").to_numpy() for run, some in rows.groupby("run")}


def three(shares: np.ndarray) -> np.ndarray:
    """The mean of the worst three classes, along the last axis."""
    return np.sort(shares, -1)[..., :3].mean(-1)


def digits_table(folder: Path, attack: str) -> Table:
    """The digits networks without and with a bias, and the paired differences over seeds."""
    shares, lines = accuracies(folder, attack), []
    for name in DIGITS:
        plain, biased = shares[name], shares[f"{name}{WITH}"]
        shown = [Mean.of(of(some), cut=True).text() for some in (plain, biased) for of in (_average, _worst, three)]
        gained = [Mean.of(of(biased) - of(plain)).text("+") for of in (_average, _worst)]
        lines.append([name, *shown, *gained])
    return Table(f"Digits, {ATTACK_TITLES[attack]}", _HEAD, lines, [])


def _average(shares: np.ndarray) -> np.ndarray:
    return shares.mean(-1)


def _worst(shares: np.ndarray) -> np.ndarray:
    return shares.min(-1)


Answer = tuple[str, float, str]  # worst class in points, its corrected p value, average in points


def digits_answers(folder: Path) -> dict[tuple[str, str], Answer]:
    """The four questions on the digits, over seeds."""
    shares, gained = accuracies(folder, ATTACKS[-1]), []
    for one, other in QUESTIONS:
        a, b = (shares[name.replace("+", WITH)] for name in (one, other))
        gained.append((_worst(a) - _worst(b), _average(a) - _average(b)))
    corrected = holm([p_value(worst) for worst, _ in gained])
    return {
        question: (Mean.of(worst).text("+"), p, Mean.of(average).text("+"))
        for question, (worst, average), p in zip(QUESTIONS, gained, corrected, strict=True)
    }


def cifar10_answers(both: Mapping[str, Verdicts], attack: str) -> dict[tuple[str, str], Answer]:
    """The questions on CIFAR-10 that can be answered with these verdicts, paired on the images."""
    asked = [question for question in QUESTIONS if set(question) <= set(both)]
    gained = [_against(both, *question, attack) for question in asked]
    corrected = holm([worst.p for worst, _ in gained])
    return {
        question: (points(worst), p, points(average))
        for question, (worst, average), p in zip(asked, gained, corrected, strict=True)
    }


def questions(title: str, answers: Mapping[tuple[str, str], Answer], *notes: str) -> Table:
    """The answers as a table."""
    lines = [[_said(*question), worst, f"{p:.2g}", average] for question, (worst, p, average) in answers.items()]
    return Table(title, _ASKED, lines, list(notes))


_ASKED = ["what", "worst class, points", "p (Holm)", "average, points"]


def _said(one: str, other: str) -> str:
    return f"{one.replace('+', ' with bias')} against {other}"


def measured(folder: Path) -> list[str]:
    """The attacks that all balanced CIFAR-10 networks have met."""
    files = [folder / f"{name}{WITH}.npz" for name in CIFAR]
    met = [Verdicts.read(file).survived for file in files if file.is_file()]
    return [attack for attack in ATTACKS if len(met) == len(files) and all(attack in one for one in met)]


def cifar10_pairs(folder: Path, attack: str) -> dict[str, Verdicts]:
    """The verdicts of the CIFAR-10 networks without and with a bias (a + behind the name), on the same 2,000 images."""
    both = {}
    for name, short in CIFAR.items():
        biased = Verdicts.read(folder / f"{name}{WITH}.npz")
        stem = ATTACKS[-1] if attack == ATTACKS[-1] else "-".join(ATTACKS[:-1])
        plain = Verdicts.read(KEPT / f"{name}-{stem}.npz")
        if len(plain.labels) > len(biased.labels):  # of 10,000 images: the 2,000 of the table
            few = stratified(torch.from_numpy(plain.labels), len(biased.labels), len(plain.class_names)).numpy()
            predicted = {attack: classes[few] for attack, classes in plain.predicted.items()}
            plain = Verdicts(plain.labels[few], predicted, plain.class_names, {**plain.header, "images": len(few)})
            plain.header["data_sha256"] = biased.header["data_sha256"]
        assert (plain.labels == biased.labels).all(), f"{name}: the images are others"
        both[short.lower()], both[f"{short.lower()}+"] = plain, biased
    return both


def cifar10_table(folder: Path, attack: str) -> Table:
    """The CIFAR-10 networks without and with a bias, each paired on the images."""
    both, lines = cifar10_pairs(folder, attack), []
    for short in map(str.lower, CIFAR.values()):
        shown = []
        for name in (short, f"{short}+"):
            counts = both[name].counts(attack)
            ends = [average_accuracy(*counts), worst_accuracy(*counts)[0]]
            shown += [f"{100 * e.value:.1f} ({100 * e.low:.1f} to {100 * e.high:.1f})" for e in ends]
            shown.append(f"{three(100 * counts[0] / counts[1]):.1f}")
        change = _against(both, f"{short}+", short, attack)
        lines.append([short, *shown, points(change[1]), points(change[0])])
    return Table(f"CIFAR-10 (JPEG), {ATTACK_TITLES[attack]}, 2,000 test images", _HEAD, lines, [])


def _against(both: Mapping[str, Verdicts], one: str, other: str, attack: str) -> tuple[Difference, Difference]:
    """Worst class and average of one network minus another's."""
    result = comparisons({other: both[other], one: both[one]}, attack)[one]
    return result.worst, result.average


def strong(folder: Path) -> dict[str, Verdicts]:
    """AutoAttack's verdicts on the 2,800 images of the table: of the kept networks, and of the base with a bias."""
    files = {
        short.lower(): (KEPT / f"{name}-autoattack.npz", KEPT / f"{name}-autoattack-cat-deer.npz")
        for name, short in CIFAR.items()
    }
    files["base+"] = (folder / f"at{WITH}-autoattack.npz", folder / f"at{WITH}-autoattack-cat-deer.npz")
    both = {}
    for name, (whole, some) in files.items():
        if whole.is_file() and some.is_file():
            joined = with_the_others(Verdicts.read(some), [Verdicts.read(whole)])
            assert joined is not None
            both[name] = joined
    return both


def tables(folder: Path) -> Iterator[Table]:
    """All tables of the page."""
    strongest, once = ATTACK_TITLES[ATTACKS[-1]], "Each network was trained once: intervals are over test images."
    title = f"CIFAR-10 (JPEG): the four questions, {strongest}, 2,000 test images"
    if ATTACKS[-1] in (met := measured(folder)):
        yield questions(title, cifar10_answers(cifar10_pairs(folder, ATTACKS[-1]), ATTACKS[-1]), once)
    if "base+" in (both := strong(folder)):
        lines = []
        for name, verdicts in both.items():
            average, (worst, which) = (
                average_accuracy(*verdicts.counts("autoattack")),
                worst_accuracy(*verdicts.counts("autoattack")),
            )
            shown = [f"{100 * e.value:.1f} ({100 * e.low:.1f} to {100 * e.high:.1f})" for e in (average, worst)]
            lines.append([name.replace("+", " with bias"), *shown, verdicts.class_names[which]])
        head = ["network", "average, %", "worst class, %", "which class"]
        yield Table("CIFAR-10 (JPEG), AutoAttack, 2,800 test images, more of cat and deer", head, lines, [])
        yield questions("CIFAR-10 (JPEG): the questions under AutoAttack", cifar10_answers(both, "autoattack"))
    yield questions(f"Digits: the four questions, {strongest}", digits_answers(folder))
    for attack in reversed(met):
        yield cifar10_table(folder, attack)
    for attack in reversed(ATTACKS):
        yield digits_table(folder, attack)


def opening(folder: Path) -> str:
    """The answer to two of the questions, in a sentence each."""
    found = {"the digits": digits_answers(folder)}
    if ATTACKS[-1] in measured(folder):
        found["CIFAR-10 (JPEG)"] = cifar10_answers(cifar10_pairs(folder, ATTACKS[-1]), ATTACKS[-1])

    def said(question: tuple[str, str]) -> str:
        parts = []
        for name, answers in found.items():
            worst, p, _ = answers[question]
            word = "is not shown to differ" if p >= 0.05 else "is higher" if worst.startswith("+") else "is lower"
            parts.append(f"on {name} its worst class {word} ({worst} points)")
        return " and ".join(parts)

    one, both, attacked = QUESTIONS[1], QUESTIONS[3], ""
    if "base+" in (verdicts := strong(folder)):
        worst, p, average = cifar10_answers(verdicts, "autoattack")[one]
        word = "is not shown to differ" if p >= 0.05 else "differs"
        attacked = f" Under AutoAttack, on CIFAR-10 (JPEG), it {word} ({worst} points); the average changes by {average}."
    return (
        f"Do C numbers match FAAL's epochs? Base with bias against FAAL under {ATTACK_TITLES[ATTACKS[-1]]}: {said(one)}."
        f"{attacked} Are both together better? FAAL with bias against FAAL: {said(both)}."
        + ("" if len(found) > 1 else f" On CIFAR-10 {ATTACK_TITLES[ATTACKS[-1]]} is not measured yet.")
    )


_ABOUT = """{first}

A bias of each class is found on validation images and added to the logits; no weight is trained (`faal-lab balance`). The
questions were written down before (`reproduce/balance-protocol.md`). Intervals are at 95 %: Student's over five seeds for the
digits, over test images for CIFAR-10, where each network was trained once. A negative average is the price. No choice was made by
test images. The p values are corrected for the four questions of a data set (Holm); for CIFAR-10 the protocol had spoken of wider
intervals instead.

Made by

```sh
faal-lab sweep reproduce/digits-balance.yaml --workers 2
python reproduce/balance_cifar10.py FOLDER_OF_IMAGES runs/balance-cifar10
python reproduce/balance_page.py results/balance --digits runs/digits-balance --cifar10 runs/balance-cifar10
```

{study}Digits: {digits}. CIFAR-10: {cifar10}.

"""


FITTED = {"scale": "a scale and a bias of each class", "layer": "the whole last layer"}


def study(folder: Path) -> str:
    """What the number of validation images does, and what more numbers do, from study.json; empty without it."""
    if not (folder / "study.json").is_file():
        return ""
    rows = json.loads((folder / "study.json").read_text())
    kinds: dict[tuple[str, float], list[dict[str, Any]]] = {}  # (how the numbers were fitted, images a class or pull) -> draws
    for row in rows:
        kinds.setdefault((row.get("fitted", ""), row.get("pull", row.get("images a class"))), []).append(row)

    def worst(of: list[dict[str, Any]], which: str = "judged") -> str:
        return f"{100 * np.mean([min(row[which]) for row in of]):.0f} %"

    def off(of: list[dict[str, Any]]) -> str:
        return f"{100 * np.mean([row['off'] for row in of]):.1f} points"

    sizes = {size: of for (kind, size), of in kinds.items() if not kind}
    plain, most = sizes.pop(0), sizes[max(sizes)]
    found = "; ".join(f"{size}: {worst(of)} ({worst(of, 'found')} on the images that found it)" for size, of in sizes.items())
    lines = [
        f"How many validation images it needs was tried on the CIFAR-10 base, with validation images alone. Half of them find "
        f"the bias, the other half judge it under PGD-10, {len(plain)} draws. Without a bias the worst class has {worst(plain)}; "
        f"with so many images a class: {found}. The difference is the optimism of choosing.",
        f"The probabilities of clean images are off by {off(plain)} without a bias (expected calibration error, 15 bins) and by "
        f"{off(most)} with the bias of {max(sizes)} images a class.",
    ]
    if tried := [
        f"{FITTED[kind]}, held by {pull:g}: {worst(of)} ({worst(of, 'found')}), off by {off(of)}"
        for (kind, pull), of in kinds.items()
        if kind
    ]:
        best = max(np.mean([min(row["judged"]) for row in of]) for (kind, _), of in kinds.items() if kind)
        bias = np.mean([min(row["judged"]) for row in most])
        said = "So they are no option of the product." if best < bias + 0.03 else "They are no option of the product yet."
        lines.append(
            "More numbers were fitted on the same half, by the cross-entropy against the worst weights of the classes, with the "
            f"features as they are: {'; '.join(tried)}. The bias alone: {worst(most)} ({worst(most, 'found')}). {said}"
        )
    return "\n\n".join(lines) + "\n\n"


def page(folder: Path) -> str:
    """The page as Markdown."""
    about = json.loads((folder / "about.json").read_text())
    said = {kind: about[kind]["made by"] for kind in ("digits", "cifar10")}
    title, _, text = as_markdown("A bias of each class", tables(folder)).partition("\n")
    return f"{title}\n\n{_ABOUT.format(first=opening(folder), study=study(folder), **said)}{text.lstrip()}"


def main() -> None:
    """Collect, and write the page."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("folder", type=Path)
    words.add_argument("--digits", type=Path, help="the folder of the finished sweep")
    words.add_argument("--cifar10", type=Path, help="the folder of balance_cifar10.py")
    options = words.parse_args()
    if options.digits or options.cifar10:
        collect(options.folder, options.digits, options.cifar10)
    replace_file(options.folder / "README.md", page(options.folder).encode())


if __name__ == "__main__":
    main()
