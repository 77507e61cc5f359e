"""The row of benchmarks/reliability.py on words: settings, sweep files, records and command lines that hypothesis makes up."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from reliability_files import said

from faal_lab.errors import FaalLabError
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.events import _KINDS, RunStarted, StepDone, to_record
from faal_lab.sweeps.plan import read_plan

SETTINGS = list(Config().to_mapping())
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "-", "0", "1e400", "nan", "\x00", "../..", "=1", "\ud800x", "kl", "faal", "1:0.1,1:0.2"]),
)
VALUES: Any = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
COMMANDS = (
    "check",
    "compare",
    "export",
    "figures",
    "report",
    "verify",
    "settings",
    "methods",
    "tell",
    "evaluate",
    "run",
    "balance",
    "look",
    "sweep",
)
OPTIONS = (
    "--out",
    "--attacks",
    "--epsilon",
    "--recipe",
    "--protocol",
    "--worst-min",
    "--to",
    "--checkpoint",
    "--images",
    "--resume",
    "--config",
    "--tau",
    "--seed",
    "--data",
    "--part",
    "--shard",
    "--help",
    "--nonsense",
)


def _many(count: int, strategy: Any, one: Callable[[Any], None]) -> list[str]:
    """Try so many cases; return the first that fails as hypothesis has shrunk it."""

    @seed(0)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(strategy)
    def tried(case: Any) -> None:
        one(case)

    try:
        tried()
    except BaseException as error:
        return [f"{type(error).__name__}: {error} for {getattr(error, '__notes__', [''])[0][:300]}"]
    return []


class Wrong(Exception):
    """What a case must not lead to."""


def _setting(case: dict[str, Any]) -> None:
    try:
        config = Config.from_mapping(case)
    except FaalLabError as error:
        if "\n" in str(error):
            raise Wrong("more than a line") from error
        return
    if Config.from_mapping(json.loads(json.dumps(config.to_mapping()))) != config:
        raise Wrong("not what was written")


def _record(folder: RunFolder) -> Callable[[Any], None]:
    def one(lines: list[Any]) -> None:
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
        folder.metrics_file.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            folder.events()
            folder.status()
        except FaalLabError as error:
            if str(folder.path) not in str(error):
                raise Wrong("the file is not named") from error

    return one


def _sweep(file: Path) -> Callable[[Any], None]:
    def one(case: Any) -> None:
        file.write_bytes(
            (case if isinstance(case, str) else yaml.safe_dump(case, allow_unicode=False)).encode("utf-8", "surrogatepass")
        )
        with contextlib.suppress(FaalLabError):
            read_plan(file, file.parent / "out")

    return one


def _words(case: list[str]) -> None:
    code, text = said(case)
    if code not in (0, 1, 2) or "Traceback" in text:
        raise Wrong(f"{code}: {text[-200:]}")


def fuzz(folder: Path, quick: bool) -> dict[str, Any]:
    """Try settings, records, sweep files and command lines; none may end in a traceback."""
    share = 60 if quick else 5200
    run = RunFolder.create(folder / "run", Config(), {})
    stated = st.dictionaries(st.one_of(st.sampled_from(SETTINGS), TEXTS), VALUES, max_size=4)
    fields = st.dictionaries(
        st.sampled_from(["step", "epoch", "schema", "weights", "count", "class_names", "from_step", "check", "reason"]),
        VALUES,
        max_size=5,
    )
    good = [
        to_record(RunStarted(["a", "b"], 4, 2, 0.5, 0.1, 0.05)),
        to_record(StepDone(1, 0, 1.0, 0.5, 0.1, 0.05, [0.5, 0.5], 0.1, [1, 1], [0.1, 0.1], [1, 0], [1, 1])),
    ]
    records = st.lists(
        st.one_of(
            VALUES,
            st.sampled_from(good),
            st.builds(lambda kind, more: {"event": kind, **more}, st.sampled_from(list(_KINDS)), fields),
        ),
        max_size=5,
    )
    stage = st.dictionaries(
        st.sampled_from(["notebook", "parameters", "list", "each", "after", "grid", "x"]),
        st.one_of(VALUES, st.sampled_from(["train", "finetune", ["one"], [{"label": "a"}], {}])),
        max_size=5,
    )
    plans = st.one_of(
        VALUES,
        st.fixed_dictionaries(
            {
                "name": st.one_of(TEXTS, VALUES),
                "stages": st.one_of(VALUES, st.dictionaries(st.sampled_from(["one", "two", "a/b"]), stage, max_size=3)),
            }
        ),
    )
    word = st.one_of(
        st.sampled_from(OPTIONS), TEXTS.filter(lambda t: "\x00" not in t), st.sampled_from(["run", "0.5", "tau=0.1", "csv"])
    )
    lines = st.builds(
        lambda command, rest: (
            [command, *rest, "--nothing"] if command in ("run", "evaluate", "balance", "look", "sweep") else [command, *rest]
        ),
        st.sampled_from(COMMANDS),
        st.lists(word, max_size=5),
    )
    lost = [f"settings: {why}" for why in _many(share, stated, _setting)]
    lost += [f"records: {why}" for why in _many(share, records, _record(run))]
    lost += [f"sweep files: {why}" for why in _many(share, plans, _sweep(folder / "s.yaml"))]
    lost += [f"command lines: {why}" for why in _many(share, lines, _words)]
    return {"tried": 4 * share, "lost": lost}
