"""The rows of the catalogue, which load nothing, say what the parts say."""

import pytest

from faal_lab import catalogue
from faal_lab.data.batches import AUGMENTATIONS
from faal_lab.data.sets import LOADERS
from faal_lab.dro import AMBIGUITY_SETS
from faal_lab.evaluation.autoattack import FORWARDS
from faal_lab.evaluation.suite import CHAINS
from faal_lab.methods.class_stats import CLASS_SCORES
from faal_lab.methods.objectives import OBJECTIVES
from faal_lab.methods.pgd import NORMS
from faal_lab.methods.predict import PGD_ATTACKS
from faal_lab.models.build import MODELS


@pytest.mark.parametrize(
    "names, registry",
    [
        (tuple(catalogue.DATA_SETS), LOADERS),
        (catalogue.AUGMENTATIONS, AUGMENTATIONS),
        (tuple(catalogue.MODELS), MODELS),
        (catalogue.NORMS, NORMS),
        (catalogue.MEASURES, CLASS_SCORES),
        (catalogue.ATTACKS, ("clean", *PGD_ATTACKS, *FORWARDS, *CHAINS)),
        (tuple(catalogue.AMBIGUITY_SETS), AMBIGUITY_SETS),
        (tuple(catalogue.OBJECTIVES), OBJECTIVES),
    ],
)
def test_names_are_those_that_there_is_code_for(names: tuple[str, ...], registry: object) -> None:
    assert names == tuple(registry)


@pytest.mark.parametrize("name", catalogue.AMBIGUITY_SETS)
def test_limits_of_radii(name: str) -> None:
    assert AMBIGUITY_SETS[name].limits == catalogue.AMBIGUITY_SETS[name].limits


@pytest.mark.parametrize("name", catalogue.OBJECTIVES)
def test_terms_and_points_of_objectives(name: str) -> None:
    row, made = catalogue.OBJECTIVES[name], OBJECTIVES[name]()
    assert (row.terms, row.points, row.attacked) == (made.terms, made.points, made.attack_loss is not None)


@pytest.mark.parametrize("name", catalogue.FAIRNESS)
def test_a_line_about_each_method_is_its_docstrings_beginning(name: str) -> None:
    row = catalogue.FAIRNESS[name]
    kind = getattr(row.make, "func", row.make)
    assert row.about().startswith(" ".join(kind.__doc__.strip().split("\n\n")[0].split()))
