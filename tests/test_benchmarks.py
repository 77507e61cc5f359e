"""The benchmarks run and say what they claim to: small here, whole by hand."""

import json
import re
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import gpu_day
import numpy as np
import pytest
import torch
from conftest import draw_images

from faal_lab.catalogue import FAIRNESS
from faal_lab.data.images import Images
from faal_lab.methods.releases import differences

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_the_solvers_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import ambiguity as benchmark

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cvxpy says of an answer that it may be inaccurate: how inaccurate is measured here
        found = {"speed": [benchmark.speed(3, 2)], "digits": [benchmark.digits(3)], "sets": benchmark.families(1)}
    assert found["digits"][0]["errors"]["ours"]["weights"] < 1e-9
    assert found["digits"][0]["errors"]["ours"]["divergence, relative"] < 1e-9
    ratios = found["speed"][0]["times longer than ours"]
    assert all(r["low"] <= r["median"] <= r["high"] for r in ratios.values())
    assert ratios["CVXPY rebuilt, Clarabel"]["median"] > 1
    table = benchmark.tables(found)
    assert table.count("| 3 | CVXPY rebuilt") >= 4
    assert "| hellinger |" in table


def test_the_page_states_what_was_measured() -> None:
    """Each figure of the page's table is one of the committed JSON."""
    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text()
    measured = json.loads((BENCHMARKS / "ambiguity.json").read_text())
    (ten,) = [entry for entry in measured["speed"] if entry["classes"] == 10]
    for key in ("times longer than ours", "times longer than ours at once, each"):
        for ratio in ten[key].values():
            assert "{median:,.0f} ({low:,.0f} to {high:,.0f})".format(**ratio) in page
    (errors,) = [entry["errors"] for entry in measured["digits"] if entry["classes"] == 10]
    assert f"| {errors['ours']['weights']:.0e} | {errors['ours']['divergence, relative']:.0e} |" in page


def test_the_page_states_how_autoattack_was_compared() -> None:
    page = " ".join((BENCHMARKS.parent / "docs" / "measuring.md").read_text().split())
    (entry,) = [e for e in json.loads((BENCHMARKS / "autoattack.json").read_text()).values() if "kills" in e]
    assert (entry["images"], entry["queries"], entry["data"]) == (500, 5000, "CIFAR-10 (JPEG)")
    assert all(pair == {"verdicts": 0, "classes": 0} for pair in entry["must agree"].values())
    assert len(entry["must agree"]) == 5
    assert f"{len(entry['kills']['each'])} kills by SIGKILL, {entry['kills']['in a batch']} of them in the middle" in page
    seeds, *modes = (pair["verdicts"] for pair in entry["may differ"].values())
    assert f"differs from upstream in {max(modes)} verdict, two seeds of upstream in {seeds}" in page
    edge = entry["images at the edge"]
    theirs, ours = (list(counts.values()) for counts in edge["broken"].values())
    assert f"breaks it with {theirs[0]} of {edge['seeds']} seeds and the default with {ours[0]} of {edge['seeds']}" in page
    times = entry["times longer than upstream"]["seconds"]
    assert "takes {median:.2f} times as long as upstream ({low:.2f} to {high:.2f}, ".format(**times) in page


def test_the_page_states_how_quick_a_step_is() -> None:
    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text()
    measured = json.loads((BENCHMARKS / "training.json").read_text())
    assert measured["machine"]["native bfloat16"]
    for case in measured["cases"].values():
        ratios = [value for name, value in case.items() if " / " in name]
        assert len(ratios) >= 2
        for ratio in ratios:
            assert "{median:.1f} ({low:.1f} to {high:.1f})".format(**ratio) in page
        assert f"| {100 * case['phase 2 of a step']:.2f} % |" in page
    taken = json.loads((BENCHMARKS / "memory.json").read_text())["cases"]
    assert list(taken) == list(measured["cases"])
    *rest, last = (f"{case['written down / ours']:.1f}" for case in taken.values())
    assert f"takes {', '.join(rest)} and {last} times the memory of ours" in " ".join(page.split())


def test_the_page_states_what_a_set_larger_than_memory_costs() -> None:
    page = " ".join((BENCHMARKS.parent / "docs" / "benchmarks.md").read_text().split())
    measured = json.loads((BENCHMARKS / "storage.json").read_text())
    speed, kept = (measured["speed"][name] for name in ("does not fit", "nothing given back"))
    assert speed["median"] >= 0.9, "what was promised"
    assert (
        "at {median:.2f} times the speed of a set that fits in its memory ({low:.2f} to {high:.2f} over".format(**speed) in page
    )
    assert "it is {median:.2f} ({low:.2f} to {high:.2f})".format(**kept) in page
    assert f"over {measured['rounds']} turns" in page
    large = measured["contenders"]["does not fit"]
    assert large["read a step"] > 0.9 * 128 * measured["bytes an image"], "the images came from the disk, not from memory"
    assert f"{large['read a step'] / 1e6:.2f} MB from the disk" in page
    assert f"{large['ready']:.0f} s" in page
    assert f"{measured['disk']['ms an image']:.2f} ms and {measured['disk']['MB a second']:,.0f} MB a second" in page


def test_the_page_states_what_kept_memory_is_worth() -> None:
    import allocation

    found = json.loads((BENCHMARKS / "allocation.json").read_text())["batches"]
    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text()
    text = " ".join(page.split("## Memory kept")[1].split("##")[0].split())
    *first, last = [f"{row['times as quick']['median']:.2f}" for row in found.values()]
    assert f"{', '.join(first)} and {last} times as quick at batches of 64, 128, 250 and 500" in text
    kept, plain = ([row["faults an image"][way] for row in found.values()] for way in ("kept", "by itself"))
    assert f"{min(kept)} to {max(kept)} page faults an image instead of {min(plain):.0f} to {max(plain):.0f}" in text
    timed = allocation.timed("kept", (4,), 8)
    assert timed["4"]["images a second"] > 0


def test_a_process_of_the_storage_benchmark_trains(tmp_path: Path) -> None:
    import storage as benchmark

    file = benchmark.write_images(tmp_path / "images.npz", 2000)
    contender = benchmark.Contender(file, "disk", tmp_path / "cache", None)
    try:
        contender.go()
    finally:
        contender.end()
    assert contender.about["images"] == 1600
    assert contender.slices[0]["step"] > 0


def test_the_page_states_how_quick_an_evaluation_is() -> None:
    said = " ".join((BENCHMARKS.parent / "docs" / "benchmarks.md").read_text().split())
    (found,) = json.loads((BENCHMARKS / "evaluation.json").read_text()).values()
    pgd, strong = found["pgd-20"], found["autoattack"]
    ours, quick = (pgd[f"written down / {name}"] for name in ("ours", "ours, compiled"))
    spread = "({low:.1f} to {high:.1f}".format
    assert f"{ours['median']:.1f} times as quick {spread(**ours)} over {pgd['rounds']} rounds" in said.replace("five", "5")
    assert f"with `--compile` {quick['median']:.1f} times {spread(**quick)}" in said
    ratios = [f"{strong[f'written down / {name}']['median']:.1f}" for name in ("ours", "ours, compiled")]
    assert f"AutoAttack on {strong['images']} images {' and '.join(ratios)} times" in said
    standing = pgd["standing"]
    assert f"leaves {standing['written down']} of {pgd['images']} images standing" in said
    assert (
        f"ours {standing['ours']}; under AutoAttack {strong['standing']['ours']} of {strong['images']} stand, either way" in said
    )
    assert len(set(strong["standing"].values())) == 1


def test_the_page_states_what_bfloat16_changes() -> None:
    said = " ".join((BENCHMARKS.parent / "docs" / "benchmarks.md").read_text().split())
    found = json.loads((BENCHMARKS / "precision.json").read_text())
    means = {k: {p: np.mean([v[k] for v in values]) for p, values in found["values"].items()} for k in ("average", "worst")}
    spread = {k: "{low:+.1f} to {high:+.1f}".format(**found["bfloat16 minus float32"][k]) for k in means}
    assert f"{means['average']['bfloat16']:.1f}" == f"{means['average']['float32']:.1f}"
    assert f"an average of {means['average']['float32']:.1f} in either (difference 0.0, {spread['average']})" in said
    worst = found["bfloat16 minus float32"]["worst"]["mean"]
    of_both = "{bfloat16:.1f} instead of {float32:.1f}".format(**means["worst"])
    assert f"a worst class of {of_both} ({worst:+.1f}, {spread['worst']})" in said
    signs = [100 * share for share in found["signs that agree"].values()]
    assert f"agree at {min(signs):.1f} to {max(signs):.1f} % of the pixels in each" in said
    assert all(d["low"] <= 0 <= d["high"] for d in found["bfloat16 minus float32"].values()), "no conclusion changes"


def test_the_docs_show_the_methods_as_they_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import methods

    measured = json.loads((BENCHMARKS / "methods.json").read_text())
    assert methods.table(measured["rows"]) in (BENCHMARKS.parent / "docs" / "methods" / "comparing.md").read_text()
    assert {row["name"] for row in measured["rows"]} <= {"base", *methods.arms()}, "a new method is measured when it can be"
    assert {settings["fairness"] for settings in methods.arms().values()} == set(FAIRNESS)


def test_the_methods_benchmark_goes_on_where_it_was_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import methods

    chosen = {name: methods.arms()[name] for name in ("none-at", "faal-at")}
    monkeypatch.setattr(methods, "arms", lambda: chosen)
    words = ["methods.py", "--quick", "--out", str(tmp_path / "runs"), "--json", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", words)
    methods.main()
    first = (tmp_path / "found.json").read_text()
    rows = {row["name"]: row for row in json.loads(first)["rows"]}
    assert set(rows) == {"base", "none-at", "faal-at"}
    low, high = rows["faal-at"]["worst above control"][1:3]
    assert low <= rows["faal-at"]["worst above control"][0] <= high
    changed = (tmp_path / "runs-quick" / "faal-at" / "last.safetensors").stat().st_mtime_ns
    methods.main()
    assert (tmp_path / "found.json").read_text() == first
    assert (tmp_path / "runs-quick" / "faal-at" / "last.safetensors").stat().st_mtime_ns == changed, "not trained again"


@pytest.mark.slow
def test_the_autoattack_benchmark_kills_compares_and_keeps_its_pieces(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import autoattack as benchmark
    import pieces

    monkeypatch.setattr(pieces, "_ROUNDS", 1)
    words = ["autoattack.py", str(base), "--images", "10", "--kills", "1", "--queries", "10", "--batch-size", "6"]
    words += ["--epsilon", "0.01", "--pieces", "by turns; killed", "--out", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", words)
    benchmark.main()
    first = (tmp_path / "found.json").read_text()
    (entry,) = json.loads(first).values()
    assert entry["must agree"] == {"killed / per-image": {"verdicts": 0, "classes": 0}}
    assert len(entry["kills"]["each"]) == 1
    assert 1 < entry["robust"]["killed"] <= 10
    assert entry["differing rounds"] == 0
    assert entry["times longer than upstream"]["images passed"]["median"] == pytest.approx(1, abs=0.1)
    assert str(tmp_path) not in first
    assert "per-image (2 of 3, about " in capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.piece.json")}
    assert len(kept) == 3, "what the killed one is compared with is made, too"
    benchmark.main()
    assert (tmp_path / "found.json").read_text() == first
    assert kept == {path: path.stat().st_mtime_ns for path in kept}, "not made again"


def test_differing_images_are_counted_in_every_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import autoattack as benchmark

    one, two = {"found": [[0, 1, 2, 2]]}, {"found": [[0, 1, 2, 2], [0, 2, 2, 0]]}
    assert benchmark.differing(one, two, [0, 1, 2, 1]) == {"verdicts": 1, "classes": 2}
    labels = torch.tensor([0] * 5 + [1] * 7 + [2] * 4)
    some = benchmark.evenly(Images(torch.zeros(16, 1, 2, 2, dtype=torch.uint8), labels), 7, 3).labels
    assert some.tolist() == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(SystemExit, match="13 images asked for; there are 12 of all classes alike"):
        benchmark.evenly(Images(torch.zeros(16, 1, 2, 2, dtype=torch.uint8), labels), 13, 3)


def test_the_dashboards_benchmark_reckons_right(tmp_path: Path) -> None:
    import dashboard as benchmark
    import numpy as np
    from desk import cores

    from faal_lab.runs import RunFolder
    from faal_lab.runs.config import Config
    from faal_lab.runs.history import load_history

    written = np.array([[1, 10.0], [2, 10.1], [3, 10.2], [4, 10.6], [5, 11.0]])
    assert benchmark.rate(written, 10.05, 11.5) == pytest.approx(3 / 0.9)
    with pytest.raises(ValueError, match="1 steps in 0 seconds; at least two"):
        benchmark.rate(written, 9.9, 10.05)
    seen = np.array([[1, 10.05], [3, 10.3], [5, 11.2]])
    assert benchmark.delays(written, seen).tolist() == pytest.approx([0.2, 0.1, 0.6, 0.2])
    one, other = ({"watched": {"steps a second": w}, "alone": {"steps a second": 100.0}} for w in (98.0, 95.0))
    assert benchmark.costs([one, other]) == pytest.approx({"median": 0.035, "low": 0.02, "high": 0.05})
    before, after = {"run": 1.0, "kernel": 2.0, "all": 10.0}, {"run": 9.0, "kernel": 2.5, "all": 20.0}
    assert cores(before, after, 10.0) == {"run": 0.8, "kernel": 0.05, "others": 0.15}

    run = RunFolder.create(tmp_path / "run", Config(), {})
    with run.recording() as recorder:
        recorder.write(benchmark.RunStarted(["a", "b", "c"], 100, 2, 0.5, 0.1, 0.05))
        for number in range(1, 201):
            for event in benchmark.made_up(number, 3):
                recorder.write(event)
    history, _ = load_history(run.path)
    assert history.weights.values.sum(1) == pytest.approx(np.ones(200))
    assert history.epoch_step.values.tolist() == [100, 200]
    assert benchmark.clock(run)[:, 0].tolist() == list(range(1, 201))
    assert benchmark.settings(5, tmp_path).data == "folder"
    assert len(list((tmp_path / "images").rglob("*.png"))) == 200


def test_the_page_states_what_the_live_page_costs() -> None:
    page = " ".join((BENCHMARKS.parent / "docs" / "benchmarks.md").read_text().split())
    measured = json.loads((BENCHMARKS / "dashboard.json").read_text())
    for classes, end in ((10, "at ten classes"), (100, "at 100")):
        late = measured[f"latency, {classes} classes"]["seconds from batch to picture"]
        assert f"{late['median']:.2f} s (95 %: {late['95 %']:.2f} s) {end}" in page
    ten, many = (measured[f"one thread, {classes} classes"]["cost"] for classes in (10, 100))
    assert f"at ten classes, {ten['median']:.1%} of its steps ({ten['low']:.1%} to {ten['high']:.1%})" in page
    assert f"at 100, {many['median']:.1%} ({many['low']:.1%} to {many['high']:.1%})" in page
    ten, many = (measured[f"cost, {classes} classes"]["cost"] for classes in (10, 100))
    assert f"{ten['median']:.0%} at ten classes ({ten['low']:.0%} to {ten['high']:.0%})" in page
    assert f"{many['median']:.0%} at 100 ({many['low']:.0%} to {many['high']:.0%})" in page
    few, more = (measured[f"memory, {classes} classes"]["bytes a step"]["kernel MB"] / 1000 for classes in (10, 100))
    assert f"by {few:.1f} kB a step" in page
    assert f"by {more:.1f} kB at 100 classes" in page


def test_the_training_benchmark_times_what_it_says() -> None:
    import training as benchmark
    from made_up import Counting

    case, device = benchmark.Case("preact-resnet-18", 4, 10, 1), torch.device("cpu")
    images = benchmark.pictures(10).batch(torch.arange(10))[0]
    with Counting() as one, torch.no_grad():
        benchmark.network(case)(images)
    work = {}
    for name, call in (("written", benchmark.plain(case, device)), ("ours", benchmark.ours(case, device, quick=False))):
        call()
        with Counting() as counted:
            call()
        work[name] = counted.total / one.total
    assert work["written"] == pytest.approx(34, abs=0.5), "10 x 3 in the attack, two forwards, one backward"
    assert work["ours"] == pytest.approx(23, abs=0.4)
    assert benchmark.phase_two(case, device) > 0


@pytest.mark.slow
def test_the_day_with_a_gpu_is_rehearsed(tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images" / "train", {str(c): 20 for c in range(10)}, 32)
    draw_images(images.parent / "test", {str(c): 5 for c in range(10)}, 32, seed=1)
    with tarfile.open(tmp_path / "images.tar.xz", "w:xz") as archive:
        for part in ("train", "test"):
            archive.add(images.parent / part, part)
    words = [sys.executable, str(BENCHMARKS / "gpu_day.py"), "--device", "cpu", "--tiny", "--out", str(tmp_path / "day.json")]
    words += ["--images", str(tmp_path / "images.tar.xz")]
    short = subprocess.run([*words, "--limit", "45"], capture_output=True, text=True)
    assert short.returncode == 0, short.stderr
    assert "left for another time" in short.stdout, "it ends before its limit"
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "day.json").read_text())["parts"]
    assert {name: part for name, part in parts.items() if "found" not in part} == {}
    assert parts.keys() == gpu_day.PARTS.keys()
    assert parts["cost"]["found"]["kernels a step"]["faal"] > 100
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.stdout == "", "what is done is not done again"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux says what a process took from now on")
def test_the_memory_benchmark_measures_each_alone() -> None:
    import memory as benchmark
    from training import Case

    found = benchmark.compared(Case("preact-resnet-18", 4, 64, 1), torch.device("cpu"))
    assert set(found["MB"]) == set(benchmark.CONTENDERS)
    low, high = 8, 95  # 20 to 56 on five machines; one activation of 64 images is 1 MB, cvxpy alone 100
    assert {who: peak for who, peak in found["MB"].items() if not low < peak < high} == {}


THEIRS = """
import torch
from torch.nn import functional as F


def trades_loss(model, x, y, optimizer, step_size, epsilon, perturb_steps, beta):
    model.eval()
    adv = x + 0.001 * torch.randn(x.shape).cuda()
    for _ in range(perturb_steps):
        adv.requires_grad_()
        far = F.kl_div(model(adv).log_softmax(1), model(x).softmax(1), reduction="sum")
        adv = adv.detach() + step_size * torch.autograd.grad(far, adv)[0].sign()
        adv = torch.min(torch.max(adv, x - epsilon), x + epsilon).clamp(0, 1)
    model.train()
    first = model(x)
    moved = model(adv.detach())
    again = model(x)
    far = F.kl_div(moved.log_softmax(1), again.softmax(1), reduction="batchmean")
    return F.cross_entropy(first, y) + beta * far
"""


def test_the_releases_benchmark_finds_what_differs_and_skips_what_is_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import releases as benchmark

    assert benchmark.report(benchmark.rows(tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "| TRADES | trades, none | skipped: no trades.py |" in printed
    assert "Nothing was compared: clone a code first." in printed
    (tmp_path / "TRADES").mkdir()
    (tmp_path / "TRADES" / "trades.py").write_text(THEIRS)
    found = benchmark.rows(tmp_path)
    assert benchmark.report(found) == 0
    assert max(found[0][kind] for kind in ("loss", "gradient", "statistics")) < 1e-9
    assert "3 numbers" in capsys.readouterr().out
    (tmp_path / "TRADES" / "trades.py").write_text(THEIRS.replace("again = model(x)", "again = first"))
    found = benchmark.rows(tmp_path)
    assert benchmark.report(found) == 1, "one pass less moves the statistics once less"
    assert found[0]["loss"] < 1e-9 < 1e-3 < found[0]["statistics"]


def test_the_page_states_how_near_the_authors_codes_are() -> None:
    page = " ".join((BENCHMARKS.parent / "docs" / "differences.md").read_text().split())
    rows = json.loads((BENCHMARKS / "releases.json").read_text())["rows"]
    numbers = [row[k] for row in rows for k in ("loss", "gradient", "statistics", "weights", "images") if k in row]
    assert f"The largest of {len(numbers)} differences is {max(numbers):.1e}" in page
    assert all(len(row["commit"]) == 40 for row in rows)
    assert not any("skipped" in row for row in rows)


def test_the_differences_benchmark_measures_what_formulas_foresee(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import difference_runs
    import differences as benchmark

    for name, value in {"seeds": (0,), "epochs": 1, "followed": 2}.items():
        monkeypatch.setattr(difference_runs.SIZE, name, value)
    inside = 1 - 20 / 9 / 32  # of a side, for shifts from -4 to 4
    assert benchmark.borders()["percent"]["mean"] == pytest.approx(100 * (1 - inside**2), abs=0.2)
    assert {name: f["mean"] for name, f in benchmark.drops().items()} == {"ours": 75, "theirs": 74}
    assert benchmark.scale()["ratio"]["mean"] == pytest.approx(7, abs=1e-3), "1 + beta"
    assert 0 < benchmark.constants()["share"]["mean"] < 1e-3
    same = benchmark.attacks({"attack_start": "zero"}, {"attack_start": "zero"})
    assert same["percent of pixels"]["mean"] == 0
    assert same["paper loss"] == same["release loss"]
    difference_runs.trained.cache_clear()


def test_every_size_on_the_page_of_differences_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import differences as benchmark

    rows = {f"{row.method}: {row.what}": row.size for row in differences()}
    assert not [name for name, size in rows.items() if "not measured" in size]
    kept = json.loads((BENCHMARKS / "differences.json").read_text())
    assert kept["seeds"] == 3
    assert set(kept["rows"]) == set(benchmark.ROWS)
    for name, figures in kept["rows"].items():
        for what, figure in figures.items():
            assert figure["low"] - 1e-12 <= figure["mean"] <= figure["high"] + 1e-12, f"{name}: {what}"
            whole = rf"(?<![\d.]){re.escape(figure['shown'])}(?!\.?\d)"
            assert re.search(whole, rows[name]), f"{name}: {what} is {figure['shown']}, the row says {rows[name]}"
