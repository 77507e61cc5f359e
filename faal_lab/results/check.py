"""Hold evaluated runs to demands by their confidence intervals, so that a pipeline can stop.

No image is attacked again. A demand fails if the whole 95 % interval is below the minimum. It is undecided if the interval
contains the minimum.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from faal_lab.errors import ConfigError, FaalLabError, RunFolderError, UnknownName
from faal_lab.evaluation.comparison import Difference
from faal_lab.evaluation.evaluate import Runs, read_verdicts
from faal_lab.evaluation.statistics import Estimate, average_accuracy, worst_accuracy
from faal_lab.evaluation.verdicts import Journal, Verdicts, VerdictsError
from faal_lab.results.tables import comparisons
from faal_lab.runs import CheckpointError, RunFolder, by_name, is_foreign, read_checkpoint
from faal_lab.runs.files import replace_file
from faal_lab.runs.heartbeat import read_heartbeat
from faal_lab.training.restore import last_state

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # forbidden in XML, but names may contain them
# Outcome -> its element in JUnit's XML.
_ELEMENTS = {"passed": "system-out", "undecided": "skipped", "accepted": "skipped", "failed": "failure", "error": "error"}


@dataclass(frozen=True)
class Demands:
    """The demands on a run: minimum accuracies in percent, and no loss against a baseline (a run folder).

    `sure` turns undecided into failed. `accept_findings` accepts signs that the attacks cannot be trusted. Raises
    ConfigError.
    """

    worst: float | None = None
    average: float | None = None
    baseline: str | Path | None = None
    sure: bool = False
    accept_findings: bool = False

    def __post_init__(self) -> None:
        if self.worst is None and self.average is None and self.baseline is None:
            raise ConfigError("Nothing is demanded. Name a --worst-min, an --average-min or a --baseline.")
        for least in (self.worst, self.average):
            if least is not None and not 0 <= least <= 100:
                raise ConfigError(f"A minimum must be between 0 and 100, in percent, got {least:g}.")
            if least is not None and 0 < least < 1:
                raise ConfigError(f"{least:g} reads as {least:g} %; for {100 * least:g} % write {100 * least:g}.")


@dataclass(frozen=True)
class Case:
    """The outcome of one demand on one run: passed, undecided, accepted, failed or error, and why."""

    name: str
    outcome: str
    text: str


def check(
    *runs: Runs, worst: float | None = None, average: float | None = None, baseline: Runs | None = None, sure: bool = False,
    accept_findings: bool = False, attack: str = "", checkpoint: str = "last", junit: str | os.PathLike[str] | None = None,
) -> bool:  # fmt: skip
    """Check evaluated runs against demands by their 95 % intervals, and print why.

    Args:
        runs: evaluated runs.
        worst: percent: fail where the worst class is shown to be lower; default None, no demand.
        average: percent: fail where the average is shown to be lower; default None, no demand.
        baseline: fail where either is shown to be lower than this run's; default None, no demand.
        sure: fail also where an interval contains the minimum; default False.
        accept_findings: accept signs of masked gradients, and chance in the model; default False.
        attack: default: the last one of the evaluation.
        checkpoint: "last" (default) or "best", the one of the verdicts.
        junit: also write the answers as JUnit XML to this file; default None.

    Returns:
        True if all demands are met.

    Raises:
        ConfigError: nothing is demanded, or a minimum is not in percent.

    >>> import faal_lab as fl
    >>> fl.check("notebooks/recorded/control", average=80)  # doctest: +ELLIPSIS
    control
      ...
      failed ... average at least 80 %: 76.2 % [72.8, 79.4], mean over classes, of 597 images, ...
    False
    """
    held = None if baseline is None else os.fspath(baseline)
    asked = Demands(worst, average, held, sure=sure, accept_findings=accept_findings)
    found = judged([os.fspath(run) for run in runs], asked, attack, checkpoint)
    print("\n".join(lines(found)))
    if junit is not None:
        write_junit(found, Path(junit))
    return met(found)


def judged(runs: Iterable[str | Path], demands: Demands, attack: str = "", checkpoint: str = "last") -> dict[str, list[Case]]:
    """Check each run's verdicts under `attack` (empty: its last one); return the cases by run name.

    Verdicts that are missing or cannot be read make a case with the outcome "error".
    """
    found = {}
    for name, path in by_name(runs).items():
        try:
            verdicts = read_verdicts(path, checkpoint)
            chosen = verdicts.chosen(attack)
        except (RunFolderError, CheckpointError, VerdictsError, UnknownName) as error:
            found[name] = [Case("verdicts", "error", str(error))]
            continue
        found[name] = cases(verdicts, chosen, demands)
        if demands.baseline is not None:
            try:
                found[name] += against(
                    verdicts, read_verdicts(demands.baseline, checkpoint), chosen, Path(demands.baseline).resolve().name
                )
            except (RunFolderError, CheckpointError, VerdictsError, UnknownName) as error:
                found[name].append(Case(f"{chosen}: against the baseline", "error", str(error)))
    return found


def cases(verdicts: Verdicts, attack: str, demands: Demands) -> list[Case]:
    """Check whether verdicts can be trusted under `attack`, and whether they meet the minimums."""
    found = [_deterministic(verdicts, attack, demands)]
    if attack != "clean":  # masked gradients mislead attacks; clean accuracy stays right
        found.append(_unmasked(verdicts, attack, demands))
    correct, total = verdicts.counts(attack)
    with_what = f"{total.sum()} images, {attack}"
    if attack != "clean":
        with_what += f" at epsilon {verdicts.header['epsilon']:.4g} ({verdicts.header['norm']})"
    if verdicts.header.get("selected_on_test"):
        with_what += ", selected on test"
    if demands.worst is not None:
        worst, which = worst_accuracy(correct, total)
        said = f"class {verdicts.class_names[which]}, {correct[which]} of its {total[which]}, of {with_what}"
        found.append(_minimum(f"{attack}: worst class at least {demands.worst:g} %", worst, demands.worst, said, demands.sure))
    if demands.average is not None:
        average = average_accuracy(correct, total)
        name = f"{attack}: average at least {demands.average:g} %"
        whole = float(correct.sum() / total.sum())
        beside = f", {100 * whole:.1f} % over images" if abs(whole - average.value) >= 0.01 else ""
        found.append(_minimum(name, average, demands.average, f"mean over classes{beside}, of {with_what}", demands.sure))
    return found


def _minimum(name: str, found: Estimate, least: float, said: str, sure: bool) -> Case:
    """Compare an interval with a minimum in percent."""
    low, high = 100 * found.low, 100 * found.high
    if high < least:
        outcome, why = "failed", "the whole interval lies below"
    elif low >= least:
        outcome, why = "passed", "the whole interval lies there or above"
    else:
        outcome, why = ("failed" if sure else "undecided"), "the minimum lies in it; more images would tell"
    return Case(name, outcome, f"{100 * found.value:.1f} % [{low:.1f}, {high:.1f}], {said}: {why}")


def _deterministic(verdicts: Verdicts, attack: str, demands: Demands) -> Case:
    """Check that two passes over the same images gave the same logits."""
    name, known = f"{attack}: deterministic", verdicts.header.get("deterministic")
    if known is True:
        return Case(name, "passed", "two passes over the same images gave the same logits")
    text = "two passes over the same images gave other logits" if known is False else "nobody looked; evaluate again"
    return Case(name, "accepted" if demands.accept_findings else "failed", text)


def _unmasked(verdicts: Verdicts, attack: str, demands: Demands) -> Case:
    """Check for signs that the attacks failed for another reason than a robust model."""
    name, findings = f"{attack}: no sign of masked gradients", verdicts.header.get("findings")
    if findings == []:
        return Case(name, "passed", "none was found")
    text = " ".join(findings) if findings else "nobody looked; evaluate again"
    return Case(name, "accepted" if demands.accept_findings else "failed", text)


def against(verdicts: Verdicts, baseline: Verdicts, attack: str, name: str) -> list[Case]:
    """Check that worst class and average are not shown to be below those of the baseline `name`.

    The runs are paired on the same images. Raises VerdictsError or UnknownName if the two were not evaluated alike.
    """
    found = comparisons({"the baseline": baseline, "this run": verdicts}, attack)["this run"]
    kinds = (("worst class", found.worst), ("average", found.average))
    paired = f"paired on {len(verdicts.labels)} images"
    if verdicts.header.get("selected_on_test") or baseline.header.get("selected_on_test"):
        paired += ", selected on test"
    return [_not_below(f"{attack}: {kind} not below {name}'s", change, paired) for kind, change in kinds]


def _not_below(name: str, change: Difference, paired: str) -> Case:
    outcome, why = ("failed", "it is lower") if change.high < 0 else ("passed", "no loss is shown")
    low, high = 100 * change.low, 100 * change.high
    return Case(name, outcome, f"{100 * change.value:+.1f} points [{low:+.1f}, {high:+.1f}], {paired}: {why}")


def met(found: dict[str, list[Case]]) -> bool:
    """Return whether no case is failed or error."""
    return not any(case.outcome in ("failed", "error") for cases in found.values() for case in cases)


def lines(found: dict[str, list[Case]]) -> list[str]:
    """Format the cases for a terminal, and count each outcome."""
    outcomes = [case.outcome for cases in found.values() for case in cases]
    counted = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in _ELEMENTS if kind in outcomes)
    said = [line for name, cases in found.items() for line in (name, *(f"  {c.outcome:<9} {c.name}: {c.text}" for c in cases))]
    return [*said, f"{counted}: {'all demands are met.' if met(found) else 'not all demands are met.'}"]


def verify(path: str | Path) -> list[Case]:
    """Check every file of a run folder that a number depends on.

    Lock, log and commands are left out: no table is made from them.

    Args:
        path: the run folder.

    Returns:
        A case for each file: "passed" with what it holds; "accepted" where it does not fit but nothing is damaged; or "failed"
        with what is wrong, the cure, and what can still be used.

    Raises:
        RunFolderError: there is no run in the folder.

    >>> from faal_lab.results.check import verify
    >>> [case.name for case in verify("notebooks/recorded/control")]
    ['config.json', 'metrics.jsonl', 'timing.jsonl', 'last.safetensors', 'verdicts-last.npz']
    """
    folder = RunFolder.open(path)

    def of_events() -> str:
        with suppress(CheckpointError):  # that is said of its own file
            last_state(folder)
        return f"{len(folder.events())} events"

    def of_heartbeat() -> str:
        return str((read_heartbeat(folder.heartbeat_file) or {}).get("activity", "nothing that can be read"))

    found = [
        _tried(folder.config_file, lambda: f"{len(folder.config().to_mapping())} settings", "Weights can be used, as a file."),
        _tried(folder.metrics_file, of_events, "Weights and verdicts can be used; curves and a resume cannot."),
        _tried(folder.timing_file, lambda: f"{len(folder.times())} times", "Delete it: only the times are lost."),
        _tried(folder.heartbeat_file, of_heartbeat, "Delete it once nobody writes here."),
    ]
    found = [case for case in found if (folder.path / case.name).exists()]
    if not folder.metrics_file.exists() and folder.checkpoint().exists():
        found.append(Case(folder.metrics_file.name, "accepted", "is missing: weights and verdicts can be used, curves cannot"))
    for file in sorted(folder.path.glob("*.safetensors")):

        def of_step(file: Path = file) -> str:
            return "weights of another program" if is_foreign(file) else f"step {read_checkpoint(file).header.get('step')}"

        found.append(_tried(file, of_step, "History and verdicts can be used."))
    for file in sorted(folder.path.glob("*verdicts-*.npz")):
        found.append(_of_verdicts(folder, file))
    for file in sorted(folder.path.glob("*/part-*.jsonl")):
        with suppress(FileNotFoundError):  # its evaluation has just ended
            whole, lines = Journal.whole(file)
            said = f"{whole} of {lines} pieces of an unfinished evaluation are whole; the others are made again by it"
            found.append(Case(f"{file.parent.name}/{file.name}", "passed" if whole == lines else "accepted", said))
    return found


def verified(paths: Iterable[Path]) -> bool:
    """Verify run folders, print what was found, and return whether no file is damaged."""
    found = {name: verify(path) for name, path in by_name(paths).items()}
    for name, cases in found.items():
        print(name, *(f"  {case.outcome:<9} {case.name}: {case.text}" for case in cases), sep="\n")
    return all(case.outcome != "failed" for cases in found.values() for case in cases)


def _of_verdicts(folder: RunFolder, file: Path) -> Case:
    """Make the case of a verdict file: whole, whole but of other weights than the run's present ones, or damaged."""

    def look() -> str:
        verdicts = Verdicts.read(file)
        return f"{', '.join(verdicts.predicted)} on {len(verdicts.labels)} images"

    case, which = _tried(file, look, "Everything else can be used."), file.stem.removeprefix("verdicts-")
    if case.outcome == "passed" and which in ("last", "best"):
        try:
            read_verdicts(folder.path, which)
        except VerdictsError as error:
            return Case(file.name, "accepted", str(error))
        except (RunFolderError, CheckpointError):
            pass  # that is said of its own file
    return case


def _tried(file: Path, look: Callable[[], str], left: str) -> Case:
    """Make the case of a file that `look` reads; `left` tells what can be used without it."""
    try:
        return Case(file.name, "passed", look())
    except (FaalLabError, OSError) as error:
        return Case(file.name, "failed", f"{error} {left}")


def write_junit(found: dict[str, list[Case]], path: Path) -> None:
    """Write the cases as JUnit XML, one suite a run; makes missing folders, raises OSError.

    Undecided and accepted cases count as skipped: pipelines show those separately, with the message, and continue.
    """
    root = ET.Element("testsuites", name="faal-lab check")
    for run, cases in found.items():
        kinds = [_ELEMENTS[case.outcome] for case in cases]
        numbers = {"tests": len(cases), "failures": kinds.count("failure"), "errors": kinds.count("error")}
        numbers |= {"skipped": kinds.count("skipped"), "time": 0}
        suite = ET.SubElement(root, "testsuite", {"name": _clean(run), **{name: str(n) for name, n in numbers.items()}})
        for case, kind in zip(cases, kinds, strict=True):
            entry = ET.SubElement(suite, "testcase", classname=_clean(run), name=_clean(case.name), time="0")
            message = {} if kind == "system-out" else {"message": _clean(f"{case.outcome}: {case.text}")}
            ET.SubElement(entry, kind, message).text = _clean(case.text)
    path.parent.mkdir(parents=True, exist_ok=True)
    ET.indent(root)
    replace_file(path, ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _clean(text: str) -> str:
    """Replace the characters that XML forbids."""
    return _NO_XML.sub("\ufffd", text)
