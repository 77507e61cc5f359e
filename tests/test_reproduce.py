"""Every sweep file of reproduce/, and every workflow, says what the notebooks and the library know, whoever carries it out."""

import ast
import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from made_up import parsed

from faal_lab.catalogue import ATTACKS, FAIRNESS
from faal_lab.errors import check_name
from faal_lab.methods.presets import preset_settings
from faal_lab.results.published import published
from faal_lab.runs.config import Config
from faal_lab.sweeps.checks import check_plan
from faal_lab.sweeps.plan import read_plan
from faal_lab.training.parameters import ADOPTION_SETTINGS, FINE_TUNING, listed

ROOT = Path(__file__).parent.parent
FILES = {path.stem: path for path in sorted((ROOT / "reproduce").glob("*.yaml"))}
FULL_SIZE = {
    "table1", "table1-prn18", "table2", "table3", "table4", "figure1", "figure2", "figure3", "ablation-score", "tau-study",
}  # fmt: skip
SMALL = {
    "digits", "digits-balance", "digits-leaderboard", "digits-longtail", "digits-releases", "cifar10-small", "cifar10-longtail",
    "cifar10-leaderboard",
}  # fmt: skip
TRAINING = ("train", "finetune")


def load(name: str) -> dict:
    return yaml.safe_load(FILES[name].read_text())


def parameters_cell(notebook: str) -> dict:
    beside = ROOT / "reproduce" / notebook
    file = beside if beside.suffix == ".ipynb" else ROOT / "parameterized" / f"{notebook}.ipynb"
    cells = json.loads(file.read_text())["cells"]
    (cell,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assigned = [line for line in ast.parse("".join(cell["source"])).body if isinstance(line, ast.AnnAssign)]
    return {line.target.id: ast.literal_eval(line.value) for line in assigned}  # type: ignore[union-attr]


def own_jobs(stage: dict) -> list[tuple[str, str, dict]]:
    """(label without the seed, seed, parameters) of each combination of a stage's list and grid."""
    found = []
    grid = stage.get("grid", {})
    for entry in stage.get("list", [{}]):
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            words = [entry["label"]] if "label" in entry else []
            words += [str(value) for name, value in point.items() if name != "seed"]
            found.append(("-".join(words), point.get("seed"), {**stage.get("parameters", {}), **entry, **point}))
    return found


def jobs(sweep: dict) -> dict[str, list[tuple[str, dict, list[dict]]]]:
    """Stage -> (label without seeds, parameters, those of the jobs that it comes from, first to last) of each of its jobs."""
    made: dict[str, list[tuple[str, dict, list[dict]]]] = {}
    for name, stage in sweep["stages"].items():
        above = [
            ("-".join(filter(None, (source, label))) if len(stage["each"]) > 1 else label, [*chain, parameters])
            for source in stage.get("each", [])
            for label, parameters, chain in made[source]
        ] or [("", [])]
        made[name] = [
            ("-".join(filter(None, (upper, label))), parameters, chain)
            for upper, chain in above
            for label, _, parameters in own_jobs(stage)
        ]
    return made


def config_of(chain: list[dict], notebooks: list[str]) -> Config:
    """The settings of a training job, as `run_parameters` would put them together from its notebook's cell and its base."""
    base: dict = {}
    config = Config()
    for parameters, notebook in zip(chain, notebooks, strict=True):
        if notebook == "evaluate":  # somebody else's network becomes a run folder
            base = Config(**{n: v for n, v in parameters.items() if n in ADOPTION_SETTINGS}, validation="none").to_mapping()
            continue
        values = {**parameters_cell(notebook), **{n: v for n, v in parameters.items() if n != "label"}}
        stated = {n: v for n, v in values.items() if v is not None and n not in ("out", "resume", "recipe", "protocol")}
        stated = preset_settings(values.get("recipe", ""), values.get("protocol", "")) | stated
        if "base" in stated:
            assert stated["base"] == "{each}"
        config = Config.from_mapping({**base, **(FINE_TUNING if "base" in stated else {}), **stated})
        base = config.to_mapping()
    return config


def test_every_file_that_is_told_of_is_there() -> None:
    assert set(FILES) == FULL_SIZE | SMALL


@pytest.mark.parametrize("name", FILES)
def test_a_sweep_can_be_begun(name: str, tmp_path: Path) -> None:
    plan = read_plan(FILES[name], tmp_path / "out")
    check_plan(plan)
    made = {stage: {label for label, _, _ in found} for stage, found in jobs(load(name)).items()}
    assert {stage: {j.title.partition("/")[2] for j in plan.jobs.values() if j.stage == stage} for stage in made} == made


@pytest.mark.parametrize("name", FILES)
def test_a_sweep_file_says_what_notebooks_know(name: str) -> None:
    sweep = load(name)
    assert sweep["name"] == name
    assert sweep["about"]
    assert set(sweep) <= {"name", "about", "hours", "threads", "environment", "stages", "paper", "kept"}
    assert all(isinstance(hours, (int, float)) and hours > 0 for hours in sweep["hours"].values())
    assert ("gpu" in sweep["hours"]) == (name in FULL_SIZE)
    seen: set[str] = set()
    for title, stage in sweep["stages"].items():
        check_name("key", next(iter(set(stage) - {"notebook", "parameters", "grid", "list", "each", "after"}), "each"), ["each"])
        assert {*stage.get("each", []), *stage.get("after", [])} <= seen, "stages come after what they need"
        known = {**parameters_cell(stage["notebook"])}
        if stage["notebook"] in TRAINING:
            known |= Config().to_mapping() | {"recipe": "", "protocol": ""}
            assert "out" not in stage["parameters"], "the sweep sets it"
        labels = [(label, seed) for label, seed, _ in own_jobs(stage)]
        assert len(set(labels)) == len(labels)
        assert all(re.fullmatch(r"[a-z0-9.-]*", label) for label, _ in labels)
        for _, _, parameters in own_jobs(stage):
            for parameter, value in parameters.items():
                if parameter == "label":
                    continue
                check_name(f"parameter of {title}", parameter, known)
                assert value is None or type(value) in (type(known[parameter]), int), (title, parameter, value)
                assert set(re.findall(r"{([\w-]+)}", str(value))) <= {"each", "here", "paper", *seen}
            for attack in listed(parameters.get("attacks") or "clean"):
                check_name("attack", attack, ATTACKS)
        seen.add(title)


@pytest.mark.parametrize("name", FILES)
def test_every_training_has_settings_that_go_together(name: str) -> None:
    sweep = load(name)
    notebook_of = {title: stage["notebook"] for title, stage in sweep["stages"].items()}
    for title, found in jobs(sweep).items():
        if notebook_of[title] not in TRAINING:
            continue
        for label, parameters, chain in found:
            (above,) = sweep["stages"][title].get("each", [""]) or [""]
            notebooks = [*([notebook_of[above]] if above else []), notebook_of[title]]
            try:
                config = config_of([*chain, parameters], notebooks)
            except ValueError as error:
                pytest.fail(f"{name}: {title}/{label}: {error}")
            if name in FULL_SIZE:
                assert config.data in ("cifar10", "cifar100")
                assert config.epsilon == pytest.approx(8 / 255)
            if config.fairness != "none":
                assert config.fairness_start < config.epochs


@pytest.mark.parametrize("name", FILES)
def test_a_papers_numbers_are_of_jobs_that_are_made(name: str) -> None:
    sweep = load(name)
    if "paper" not in sweep:
        assert name not in ("table1", "table1-prn18", "table2", "table3")
        return
    made = {f"{title}/{label}" for title, found in jobs(sweep).items() for label, _, _ in found}
    evaluated = {
        attack
        for stage in sweep["stages"].values()
        if stage["notebook"] == "evaluate" and "{here}" not in str(stage["parameters"])
        for attack in listed(stage["parameters"]["attacks"])
    }
    for run, entry in published(sweep["paper"]).items():
        check_name("run", run, made)
        assert set(entry.attacks) <= evaluated


def test_the_papers_numbers_are_copied_right() -> None:
    """Some cells of each table, read off the paper once more."""
    one, two, three = (published(load(name)["paper"]) for name in ("table1", "table2", "table3"))
    assert one["base/pgd"].attacks["autoattack"] == {"average": 52.46, "worst": 24.40}
    assert one["tuned/trades-faal-at-awp"].attacks["pgd-20"] == {"average": 56.07, "worst": 43.30}
    assert one["frl/trades-awp-frl-07"].attacks["cw-20"] == {"average": 49.77, "worst": 31.50}
    assert len(one) == 20
    assert two["scratch/faal-at"].attacks["autoattack"] == {"average": 49.10, "worst": 33.70}
    assert three["tuned/trades-faal-at"].attacks["clean"] == {"average": 58.50, "worst": 21}


def test_the_digits_have_every_fairness_method() -> None:
    later = {"sy-far", "robust-lt", "fair-tat"}  # than the recorded results of the leaderboard
    for name, stage, lacks in (
        ("digits", "tuned", set()),
        ("digits-leaderboard", "equal", later),
        ("digits-leaderboard", "own", later),
    ):
        assert {entry["fairness"] for entry in load(name)["stages"][stage]["list"]} == set(FAIRNESS) - lacks, (name, stage)


@pytest.mark.parametrize(
    ("name", "stage", "control"), [("digits-longtail", "scratch", "at"), ("cifar10-longtail", "tuned", "at-control")]
)
def test_every_arm_of_a_long_tail_has_the_same_tail_and_length(name: str, stage: str, control: str) -> None:
    sweep = load(name)
    notebooks = ["train", "finetune"] if "each" in sweep["stages"][stage] else ["train"]
    arms = {label: config_of([*chain, own], notebooks) for label, own, chain in jobs(sweep)[stage] if own.get("seed", 0) == 0}
    shared = ("data", "imbalance", "epochs", "epsilon", "attack_steps", "learning_rate", "batch_size", "validation", "split_seed")
    assert {tuple(getattr(config, setting) for setting in shared) for config in arms.values()} == {
        tuple(getattr(arms[control], setting) for setting in shared)
    }
    assert arms[control].imbalance == {"digits-longtail": 20, "cifar10-longtail": 50}[name]
    assert (arms[control].objective, arms[control].fairness) == ("at", "none")
    chosen = {(c.objective, c.fairness, c.ambiguity, "rand" in c.augment) for c in arms.values()}
    plain = {("at", method, "kl", False) for method in ("none", "robust-lt", "faal", "sy-far", "fair-tat", "dafa")}
    ours = {
        ("bsl", "none", "kl", False),
        ("bsl", "none", "kl", True),
        ("bsl", "robust-lt", "kl", False),
        ("at", "none", "kl", True),
    }
    assert chosen == plain | ours | {("at", "faal", "chi-square", False)}


def test_times_name_the_runs_that_they_are_of() -> None:
    sweep = load("table4")
    made = {f"{title}/{label}" for title, found in jobs(sweep).items() for label, _, _ in found}
    for stage in ("times-cifar10", "times-cifar100"):
        assert {entry.partition("=")[0] for entry in listed(sweep["stages"][stage]["parameters"]["paper"])} <= made


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_may_little_and_names_what_it_uses(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text()
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        assert all(re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", step["uses"]) for step in job["steps"] if "uses" in step)
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "nothing from outside becomes part of a command"
            for target in re.findall(r"\bmake (\S+)", step.get("run", "")):
                assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.M), target


def test_the_weekly_batch_holds_what_is_made_to_what_was_measured() -> None:
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "batch.yml").read_text())["jobs"].values()
    (command,) = [step["run"] for step in job["steps"] if "faal-lab check" in step.get("run", "")]
    words = shlex.split(command.replace("$WORST_MIN", job["env"]["WORST_MIN"]))
    _, given = parsed(words[1:])
    made = {Path("runs", "digits", title, label) for title, found in jobs(load("digits")).items() for label, _, _ in found}
    assert {*given["runs"], given["baseline"]} <= made
    assert given["attack"] in listed(load("digits")["stages"]["verdicts"]["parameters"]["attacks"])
    assert 0 < given["worst_min"] < 100
