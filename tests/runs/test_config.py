"""Settings: defaults, types, ranges, names."""

import json
import re
import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from made_up import resealed

from faal_lab.cli import application
from faal_lab.errors import ConfigError, UnknownName
from faal_lab.runs.config import Config, check_dial
from faal_lab.runs.config import settings as declared
from faal_lab.settings import setting
from faal_lab.training.parameters import OverriddenWarning, checked, given, run_parameters, settings_of


def test_round_trip_and_hash() -> None:
    config = Config.from_mapping({"tau": 1, "fairness": "faal"})
    assert config.tau == 1.0
    assert Config.from_mapping(config.to_mapping()) == config
    assert config.digest() == Config(tau=1.0, fairness="faal").digest() != Config().digest()


def test_every_setting_is_documented() -> None:
    assert all(len(one.about) > 10 for one in declared().values())
    assert list(declared()) == [f.name for f in fields(Config)]


@dataclass(frozen=True)
class Louder(Config):
    volume: float = setting(5.0, about="How loud it is, in steps.", low=0, high=11)


def test_a_new_setting_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="volume must be between 0 and 11, got 12"):
        Louder(volume=12)
    with pytest.raises(UnknownName, match="Did you mean 'volume'"):
        Louder.from_mapping({"volum": 3})
    assert application(Louder)(["run", "--help"]) is None
    said = " ".join(capsys.readouterr().out.split())
    assert "--volume FLOAT How loud it is, in steps. [default: 5.0]" in said
    _, bound, *_ = application(Louder).parse_args(["run", "--volume", "7"])
    assert bound.arguments["stated"] == {"volume": 7.0}
    config, _, _ = run_parameters({"volume": 7.5, "epochs": 2}, Louder)
    assert (type(config), config.volume, config.epochs) == (Louder, 7.5, 2)
    assert config.to_mapping()["volume"] == 7.5


@pytest.mark.parametrize(
    "stated, text",
    [
        ({"lr_drops": "0.3"}, "lr_drops=0.3 acts with lr_schedule=step only, and the run has lr_schedule=cosine"),
        ({"tau_changes": "1:0.2"}, "tau_changes=1:0.2 acts with fairness=faal only, and the run has fairness=none"),
        ({"fairness": "fat", "multiplier": 2.0}, "multiplier=2.0 acts with fairness=faal only"),
        ({"averaging": "ema", "average_threshold": 0.1}, "average_threshold=0.1 acts with averaging=fawa only"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(stated: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        settings_of(None, stated, {})
    with pytest.raises(ConfigError, match=re.escape(text)):
        run_parameters(stated)
    Config(**stated)  # a recipe, a protocol or a base may bring it along


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"tau": -0.1}, r"tau must be at least 0, got -0\.1"),
        ({"tau": float("nan")}, "tau must be a number, got nan"),
        ({"tau": float("inf")}, "tau must be at least 0, got inf"),
        ({"tau": "0.5"}, r"tau must be a number, got '0\.5' \(str\) \(papermill's -r"),
        ({"epochs": 2.0}, r"epochs must be a whole number, got 2\.0 \(float\)"),
        ({"epochs": True}, r"epochs must be a whole number, got True \(bool\)"),
        ({"epsilon": True}, r"epsilon must be a number, got True"),
        ({"epsilon": 8}, r"epsilon must be between 0 and 1 for norm=linf, got 8\.0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"ambiguity": "total-variation", "tau": 2}, "tau must be between 0 and 1 for ambiguity=total-variation, got 2"),
        ({"multiplier": 0.8}, "multiplier must be above 1 .* got 0.8"),
        ({"imbalance": 0.5}, "imbalance must be at least 1, got 0.5"),
        ({"download": "yes"}, r"download must be true or false, got 'yes' \(str\)"),
        ({"data": 3}, r"data must be text, got 3 \(int\)"),
    ],
)
def test_bad_values(settings: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Config.from_mapping(settings)


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"fairnes": "faal"}, r"Unknown setting 'fairnes'\. Did you mean 'fairness'"),
        ({"fairness": "fal"}, r"Unknown fairness method 'fal'\. Did you mean 'faal'\? Known: none, faal"),
        ({"model": "smal-cnn"}, r"Unknown model 'smal-cnn'\. Did you mean 'small-cnn'"),
        ({"data": "digit"}, r"Unknown data set 'digit'\. Did you mean 'digits'"),
        ({"ambiguity": "tv"}, "Unknown ambiguity set 'tv'.*Known: kl, reverse-kl"),
        ({"objective": "pgd"}, r"Unknown objective 'pgd'.*Known: at, trades, mart, bat, standard, bsl"),
        ({"validation": "non"}, r"Unknown validation 'non'\. Did you mean 'none'"),
    ],
)
def test_unknown_names(settings: dict, text: str) -> None:
    with pytest.raises(UnknownName, match=text):
        Config.from_mapping(settings)


def test_dials() -> None:
    assert check_dial("tau", 1, Config()) == 1.0
    with pytest.raises(UnknownName, match=r"Unknown dial 'tua'\. Did you mean 'tau'"):
        check_dial("tua", 0.5, Config())
    with pytest.raises(ConfigError, match="tau must be at least 0"):
        check_dial("tau", -1.0, Config())
    with pytest.raises(ConfigError, match="tau must be between 1e-12 and 1 for ambiguity=cvar, got 1.5"):
        check_dial("tau", 1.5, Config(ambiguity="cvar"))


def test_parameters_of_a_notebook(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "x", "_i": "code", "In": [], "json": pytest, "tau": 0.7, "epochs": 3, "out": ""}
    assert given(namespace) == {"tau": 0.7, "epochs": 3, "out": ""}
    config, out, resume = run_parameters(namespace)
    assert not resume
    assert (config.tau, config.epochs, str(out)) == (0.7, 3, "runs/digits-at-none")
    with pytest.raises(UnknownName, match=r"Unknown parameter 'epoch'\. Did you mean 'epochs'"):
        run_parameters({"epoch": 3})
    with pytest.raises(ConfigError, match=r"seed must be a whole number, got '7' \(str\) \(papermill's -r"):
        run_parameters({"seed": "7"})
    (tmp_path / "mine").mkdir()
    assert not run_parameters({"out": "mine", "resume": True})[2], "nothing to go on with"
    (tmp_path / "mine" / "config.json").touch()
    assert run_parameters({"out": "mine", "resume": True})[2]
    with pytest.raises(ConfigError, match="resume must be True or False, got 1"):
        run_parameters({"resume": 1})
    with pytest.raises(UnknownName, match=r"Unknown parameter 'run'\. Did you mean 'runs'"):
        checked({"run": "x"}, {"runs": ""})
    with pytest.raises(ConfigError, match="epsilon must be of type float, got 'x'"):
        checked({"epsilon": "x"}, {"epsilon": 1.0})


def test_a_fine_tuning_takes_over_what_it_does_not_state(base, quick) -> None:
    config, *_ = run_parameters({"base": str(base), "fairness": "faal", "epsilon": None})
    assert (config.fairness, config.attack_steps) == ("faal", quick.attack_steps)
    assert (config.epochs, config.batch_size, config.learning_rate) == (4, 50, 0.01), (
        "its own: the base's rate would undo the base"
    )


def test_a_fine_tuning_does_not_count_the_epochs_of_another_run(base, tmp_path) -> None:
    folder = tmp_path / "long"
    shutil.copytree(base, folder)
    record = json.loads((folder / "config.json").read_text())
    record["config"] |= {"epochs": 200, "tau_changes": "150:0.5", "fairness": "faal", "fairness_start": 100, "average_start": 100}
    record["config"] |= {"averaging": "ema"}
    (folder / "config.json").write_text(json.dumps(record))
    resealed(folder / "config.json")
    config, *_ = run_parameters({"base": str(folder)})
    assert (config.fairness, config.averaging) == ("faal", "ema")
    assert (config.epochs, config.tau_changes, config.fairness_start, config.average_start) == (4, "", 0, 0)


def test_a_notebook_can_name_a_recipe_and_a_protocol() -> None:
    given = {"recipe": "faal-at-awp", "protocol": "finetune-2ep", "data": "digits", "tau": 0.3}
    with pytest.warns(OverriddenWarning) as said:
        config, *_ = run_parameters(given)
    assert [str(warning.message) for warning in said] == [
        "faal-at-awp and finetune-2ep would have data 'cifar10'; 'digits' wins, be it the notebook's own. "
        "None (papermill -y 'data: null') takes theirs.",
        "faal-at-awp and finetune-2ep would have tau 0.5; 0.3 wins, be it the notebook's own. "
        "None (papermill -y 'tau: null') takes theirs.",
    ]
    assert (config.fairness, config.awp_gamma, config.epochs, config.tau) == ("faal", 0.01, 2, 0.3)
    with pytest.raises(UnknownName, match="Unknown protocol 'finetune-2'. Did you mean 'finetune-2ep'"):
        run_parameters({"protocol": "finetune-2"})
