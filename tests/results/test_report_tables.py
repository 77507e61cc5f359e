"""The report's tables as CSV, LaTeX and Markdown, seeds together, and a paper's numbers beside ours."""

import csv
import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_up import resealed, unpadded, verdicts

from faal_lab.__main__ import main
from faal_lab.errors import ConfigError, RunFolderError, UnknownName
from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.groups import grouped, read_runs
from faal_lab.evaluation.verdicts import VerdictsError
from faal_lab.results.export import accuracy_over, all_pictures
from faal_lab.results.formats import Table, as_csv, as_latex, as_markdown, paper_table, result_table
from faal_lab.results.published import paper_rows, published, read_paper
from faal_lab.results.report import controls, headlines, report_tables, what_was_run, write_report
from faal_lab.results.tables import epoch_seconds, group_rows, minutes_of, result_rows, time_rows
from faal_lab.runs import RunFolder

PAPER = {"fair": {"source": "Table 1", "attacks": {"pgd-20": {"average": 60.0, "worst": 55}, "autoattack": {"worst": 50}}}}


@pytest.fixture(scope="module")
def evaluated(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("evaluated")
    paths = {name: str(shutil.copytree(base, folder / name)) for name in ("base-0", "base-1", "fair-0", "fair-1")}
    for path in paths.values():
        evaluate_run(path, attacks=("clean", "pgd-20"))
    return paths


def rows_by_hand() -> list[dict]:
    return group_rows({"base": [verdicts([80, 40])], "fair": [verdicts([70, 60])]})


def test_seeds_in_one_row() -> None:
    base = [verdicts([80, 40]), verdicts([80, 50]), verdicts([45, 80])]
    clean, row = group_rows({"base": base})
    assert (row["seeds"], row["images"], row["worst_class"]) == (3, 200, "b, a")
    assert row["worst"] == pytest.approx(45)
    assert row["worst_high"] - row["worst"] == pytest.approx(4.3027 * 5 / 3**0.5, abs=1e-3)
    assert row["average"] == pytest.approx((60 + 65 + 62.5) / 3)
    assert row["gap"] == pytest.approx((40 + 30 + 35) / 3)
    assert (clean["worst"], clean["worst_low"], clean["worst_high"]) == (100, 100, 100)
    _, wide = group_rows({"base": [verdicts([80, 2]), verdicts([80, 30])]})
    assert (wide["worst_low"], wide["worst_high"]) == (0, 100), "an accuracy is nothing else"
    (_, one), (_, alone) = group_rows({"a": base[:1]}), result_rows({"a": base[0]})
    assert one == {**alone, "seeds": 1}
    assert alone["gap"] == pytest.approx(40)
    with pytest.raises(VerdictsError, match="The runs of a were evaluated with different attacks"):
        group_rows({"a": [base[0], verdicts([1, 1]).__class__(base[0].labels, {"clean": base[0].labels}, ("a", "b"), {})]})


def test_differences_to_a_paper() -> None:
    rows = rows_by_hand()
    average, worst, missing = paper_rows(published(PAPER), rows)
    ours = next(row for row in rows if (row["run"], row["attack"]) == ("fair", "pgd-20"))
    assert (average["ours"], average["difference"]) == (pytest.approx(65), pytest.approx(5))
    assert worst["difference"] == pytest.approx(5)
    for end in ("low", "high"):
        assert worst[f"difference_{end}"] == pytest.approx(ours[f"worst_{end}"] - 55), "the interval is ours, moved"
    assert (missing["ours"], missing["difference"], missing["paper"]) == (None, None, 50)
    table = paper_table([average, worst, missing])
    assert table.rows[1][4:] == ["55", f"+5.0 ({worst['difference_low']:+.1f} to {worst['difference_high']:+.1f})", "Table 1"]
    assert table.rows[2][3] == "-"
    assert "taken as exact" in table.notes[0]
    assert "A dash" in table.notes[1]
    with pytest.raises(UnknownName, match=r"Unknown run in the paper's numbers 'fare'\. Did you mean 'fair'\?"):
        paper_rows(published({"fare": PAPER["fair"]}), rows)


@pytest.mark.parametrize(
    "text, error",
    [
        ("a: {source: T, attacks: {pgd20: {worst: 1}}}", r"Unknown attack in .*: a 'pgd20'\. Did you mean 'pgd-20'\?"),
        ("a: {source: T, attacks: {clean: {worst: 5e1}}}", "must be a number in percent, from 0 to 100, got '5e1'"),
        ("a: {source: T, attacks: {clean: {worst: true}}}", "got True"),
        ("a: {source: T, attacks: {clean: {worst: .nan}}}", "got nan"),
        ("a: {source: T, attacks: {clean: {worst: 101}}}", "got 101"),
        ("a: {source: T, attacks: {clean: {best: 1}}}", "Unknown number in .* 'best'"),
        ("a: {source: T, attacks: {}}", "attacks must hold names"),
        ("a: {attacks: {clean: {worst: 1}}}", "source must say where the numbers stand"),
        ("a: {source: T, atacks: {}}", "Unknown entry of .* 'atacks'. Did you mean 'attacks'"),
        ("[1]", "must hold names and what belongs to them"),
        ("a: [", "is neither YAML nor JSON"),
        ("!!python/object/apply:os.mkdir [made]", "is neither YAML nor JSON"),
    ],
)
def test_a_file_that_is_no_papers_numbers(text: str, error: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("paper.yaml").write_text(text)
    with pytest.raises((ConfigError, UnknownName), match=error):
        read_paper("paper.yaml")
    assert not Path("made").exists(), "nothing in it is executed"


def test_json_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "paper.json").write_text(json.dumps(PAPER))
    assert read_paper(tmp_path / "paper.json") == published(PAPER)


def test_csv_holds_every_number() -> None:
    rows = rows_by_hand()
    found = list(csv.DictReader(io.StringIO(as_csv(rows, paper_rows(published(PAPER), rows)).decode())))
    assert [(row["run"], row["attack"]) for row in found] == [(row["run"], row["attack"]) for row in rows]
    for line, row in zip(found, rows, strict=True):
        assert float(line["worst_low"]) == row["worst_low"], "in full"
        assert float(line["gap"]) == row["gap"]
    assert (found[3]["worst_paper"], found[3]["paper_source"]) == ("55.0", "Table 1")
    assert float(found[3]["average_difference"]) == pytest.approx(5)
    assert found[0]["worst_paper"] == ""
    assert "worst_paper" not in as_csv(rows).decode()


def test_latex_and_markdown_say_what_was_meant() -> None:
    odd = Table("50 % & more", ["a_b", "c"], [["[x] {y}", "-1.5 (-2 to 3)"], ["*", "a|b ~ C:\\d^2 <3>"]], ["at-0 $5 #1"])
    latex = as_latex([odd])
    assert r"\caption{50 \% \& more}" in latex
    assert r"\footnotesize at-0 \$5 \#1}" in latex
    assert r"a\_b & c \\" in latex
    assert r"{[}x{]} \{y\} & $-$1.5 ($-$2 to 3) \\" in latex
    assert r"{*} & a\textbar{}b \textasciitilde{} C:\textbackslash{}d\textasciicircum{}2 \textless{}3\textgreater{} \\" in latex
    assert latex.count(r"\begin{") == latex.count(r"\end{") == 2
    assert [line for line in latex.splitlines() if "rule" in line] == [r"\toprule", r"\midrule", r"\bottomrule"]
    text = unpadded(as_markdown("t_t", [odd]))
    assert r"# t\_t" in text
    assert r"| \[x\] {y} | -1.5 (-2 to 3) |" in text
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert widths == {3}


def test_what_stands_beside_numbers_stands_in_every_table() -> None:
    rows = group_rows({"x": [verdicts([80, 40], findings=["Odd."])]})
    table = result_table(rows)
    assert table.rows[0][1] == "x [masked gradients?]"
    assert "masked gradients?" in as_csv(rows).decode()
    assert [row[0] for row in result_table(rows_by_hand()).rows] == ["Clean", "Clean", "PGD-20", "PGD-20"]


def test_runs_of_one_name_are_seeds(tmp_path: Path) -> None:
    assert grouped(["a=x", "b=y", "a=z", "runs/c"]) == {"a": ["x", "z"], "b": ["y"], "c": ["runs/c"]}
    assert grouped(["a=x,z", "runs/c-0,runs/c-1"]) == {"a": ["x", "z"], "c-0": ["runs/c-0", "runs/c-1"]}
    (tmp_path / "odd,name=x").mkdir()
    assert list(grouped([str(tmp_path / "odd,name=x")])) == ["odd,name=x"]
    for texts in (["runs/c", "other/c"], ["runs/c", "c=other"], ["c=other", "runs/c"]):
        with pytest.raises(VerdictsError, match="Two groups are named c"):
            grouped(texts)


def test_a_report_over_seeds_beside_a_paper(evaluated: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [f"{name.partition('-')[0]}={path}" for name, path in evaluated.items()]
    (tmp_path / "paper.yaml").write_text(json.dumps(PAPER))
    page = tmp_path / "deep" / "page.html"
    assert main(["report", *words, "--paper", str(tmp_path / "paper.yaml"), "--out", str(page), "--title", "T & T"]) == 0
    said = capsys.readouterr().out
    assert said.count("Written: ") == 4
    assert "fair against base, worst class: 0.0 points over 2 seeds" in said
    runs, paper = read_runs(words), read_paper(tmp_path / "paper.yaml")
    assert "mean of 2 seeds" in headlines(runs)[0]
    assert headlines(read_runs(words[:3]))[-1] == "fair has 1 runs and base 2: not compared over seeds."
    (results, beside), data = report_tables(runs, paper)
    assert results.head[-1] == "seeds"
    text = page.read_text()
    for shown in (results, beside):
        assert re.search(rf'<h2 id="table-\d">{re.escape(shown.title)}</h2>', text)
        assert [c for row in shown.rows for c in row if html.escape(c, quote=False) not in text] == []
    assert "are of the first seed of each name" in text
    assert page.with_suffix(".csv").read_bytes() == data
    assert page.with_suffix(".tex").read_text() == as_latex([results, beside])
    assert page.with_suffix(".md").read_text() == as_markdown("T & T", [results, beside])
    (tmp_path / "paper.yaml").write_text(json.dumps({"fare": PAPER["fair"]}))
    assert main(["report", *words, "--paper", str(tmp_path / "paper.yaml"), "--out", str(tmp_path / "other.html")]) == 1
    assert "Did you mean 'fair'?" in capsys.readouterr().err
    assert not (tmp_path / "other.html").exists()
    with pytest.raises(ConfigError, match=r"The page cannot be page\.tex"):
        write_report(runs, "page.tex")


def changed(path: str, to: Path, **settings: Any) -> str:
    """A copy of a run folder, with other settings written into it."""
    shutil.copytree(path, to)
    record = json.loads((to / "config.json").read_text())
    record["config"] |= settings
    (to / "config.json").write_text(json.dumps(record))
    resealed(to / "config.json")
    return str(to)


def test_the_report_opens_with_the_fair_comparison(evaluated: dict[str, str], tmp_path: Path) -> None:
    tuned = {"base": "runs/start", "epochs": 2, "batch_size": 50}
    words = [
        changed(evaluated["base-0"], tmp_path / "start"),
        changed(evaluated["base-0"], tmp_path / "plain", **tuned),
        changed(evaluated["fair-0"], tmp_path / "faal", **tuned, fairness="faal", tau=0.25),
        changed(evaluated["fair-0"], tmp_path / "longer", **tuned | {"epochs": 3}, fairness="faal"),
        changed(evaluated["fair-1"], tmp_path / "dro", **tuned, fairness="group-dro", fairness_rate=0.1),
    ]
    runs = read_runs(words)
    assert controls(runs) == {"faal": "plain", "dro": "plain"}, "an epoch more is no fair comparison"
    lines = headlines(runs)
    assert [line.split()[0] for line in lines if "same verdict" not in line] == ["Under"]
    assert "plain and faal" in lines[0]
    assert "plain and dro" in lines[1]
    assert [line for line in lines if line.startswith("Under")] == [lines[2]]
    table = what_was_run(runs)
    roles = {row[0]: row[1:3] for row in table.rows}
    assert roles["start"] == ["plain, faal, longer, dro start from it", "at"]
    assert roles["plain"] == ["control of faal, dro: all alike, without the method", "at, from start"]
    assert roles["faal"] == ["", "at + faal, tau 0.25, from start"]
    assert roles["dro"] == ["", "at + group-dro, from start"]
    assert {row[4] for row in table.rows} == {"1", "1 of 2", "1 of 3"}, "what was trained, not what was asked for"
    page = write_report(runs, tmp_path / "page.html").read_text()
    body = page[page.index("<h1>") :]
    assert (
        body.index("plain and faal")
        < body.index("plotly-graph-div")
        < body.index("What was run</h2>")
        < body.index("Accuracy</h2>")
    )
    for name in re.findall(r'href="#([^"]+)"', body):
        assert f'id="{name}"' in body
    assert re.findall(r'href="([^"#]+)" download', body) == ["page.csv", "page.md", "page.tex"]
    first = write_report(read_runs(words[1:3]), tmp_path / "two.html").read_text()
    assert first.count("plain and faal do not differ") == 1, "said once where the control is the first run"


def test_when_a_run_was_made(evaluated: dict[str, str], tmp_path: Path) -> None:
    path = Path(changed(evaluated["base-0"], tmp_path / "timed", epochs=4))
    told = [("RunStarted", 0), ("EpochDone", 100), ("EpochDone", 130), ("RunFinished", 86400 * 366)]
    (path / "timing.jsonl").write_text("".join(json.dumps({"event": e, "step": 1, "time": t}) + "\n" for e, t in told))
    (row,) = what_was_run(read_runs([str(path)])).rows
    assert row[4:] == ["1 of 4", "0:30", "1971-01-02"]
    (path / "timing.jsonl").write_text("")
    (row,) = what_was_run(read_runs([str(path)])).rows
    assert row[4:] == ["1 of 4", "", ""]


def test_a_recipe_of_ones_own_is_no_control(evaluated: dict[str, str], tmp_path: Path) -> None:
    words = [evaluated["base-0"], changed(evaluated["fair-0"], tmp_path / "faal", fairness="faal")]
    assert controls(read_runs(words)) == {"faal": "base-0"}
    own = Path(changed(evaluated["base-0"], tmp_path / "own"))
    record = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(record | {"own": {"recipe": "AT with Mine"}}))
    resealed(own / "config.json")
    runs = read_runs([str(own), words[1]])
    assert controls(runs) == {}
    assert what_was_run(runs).rows[0][2] == "AT with Mine"


def test_accuracy_over_a_setting(evaluated: dict[str, str], tmp_path: Path) -> None:
    words = []
    for name, tau in (("high", 0.5), ("low", 0.125)):
        for seed in (0, 1):
            path = shutil.copytree(evaluated["base-0"], tmp_path / f"{name}-{seed}")
            record = json.loads((path / "config.json").read_text())
            record["config"] |= {"tau": tau, "fairness": "faal"}
            (path / "config.json").write_text(json.dumps(record))
            resealed(path / "config.json")
            words.append(f"{name}={path}")
    runs = read_runs(words)
    figure = accuracy_over(runs, "tau", "pgd-20")
    worst = next(r for r in group_rows({runs[0].name: runs[0].group}) if r["attack"] == "pgd-20")["worst"]
    assert list(figure.data[1].x) == [0.125, 0.5]
    assert list(figure.data[1].y) == pytest.approx([worst, worst])
    drawn = all_pictures(runs, setting="tau")
    assert {"tau-pgd-20", "high-weights", "low-weights", "clean-and-pgd-20"} <= set(drawn)
    with pytest.raises(VerdictsError, match="the runs do not differ in beta"):
        all_pictures(runs, setting="beta")["beta-pgd-20"]()
    with pytest.raises(UnknownName, match="Unknown setting 'tua'. Did you mean 'tau'"):
        all_pictures(runs, setting="tua")


def timed(folder: Path, events: list[tuple[str, float]]) -> Path:
    lines = [json.dumps({"event": name, "step": 1, "time": time}) for name, time in events]
    RunFolder(folder).timing_file.write_text("\n".join(lines) + "\n")
    return folder


def test_minutes_an_epoch(base: Path, tmp_path: Path) -> None:
    first, second = (shutil.copytree(base, tmp_path / name) for name in ("first", "second"))
    done = [("RunStarted", 0.0), ("EpochDone", 500.0), ("EpochDone", 620.0), ("StepDone", 700.0), ("EpochDone", 860.0)]
    assert epoch_seconds(timed(first, done)) == [120, 240], "the first epoch warms up"
    stopped = [*done[:3], ("RunResumed", 9000.0), ("EpochDone", 9060.0), ("EpochDone", 9420.0)]
    assert epoch_seconds(timed(second, stopped)) == [120, 360], "no epoch lasts over a stop"
    one, two = time_rows({"first": first, "second": second}, minutes_of(["first=2.5", "second=3"]))
    assert (one["minutes"], two["minutes"], two["times"], two["paper_times"]) == (3, 4, pytest.approx(4 / 3), pytest.approx(1.2))
    assert "the control arm" in one["properties"]
    with pytest.raises(RunFolderError, match="has no two epochs in a row"):
        epoch_seconds(timed(first, done[:2]))
    for text in ("first", "first=long", "first=0"):
        with pytest.raises(ConfigError, match="must be like name=2.63, got"):
            minutes_of([text])
