"""Networks that take pixels in [0, 1] and normalise them inside, so that radii stay in pixel units.

Knows: layers and shapes. Must not know: data sets, attacks, files.
A new network is one file and one row in `MODELS`.
"""

from faal_lab.models.compiling import CompileWarning, compiled, try_to_compile
from faal_lab.models.factory import ModelProblem, try_model
from faal_lab.models.layout import placed
from faal_lab.models.normalize import Normalize, Normalized, QuickPasses, Statistics, statistics
from faal_lab.models.precision import has_bfloat16, in_bfloat16, takes_bfloat16, wants_bfloat16
from faal_lab.models.small import SmallConvNet
from faal_lab.models.spec import MODELS, ModelSpec, build

__all__ = [
    "MODELS",
    "CompileWarning",
    "ModelProblem",
    "ModelSpec",
    "Normalize",
    "Normalized",
    "QuickPasses",
    "SmallConvNet",
    "Statistics",
    "build",
    "compiled",
    "has_bfloat16",
    "in_bfloat16",
    "placed",
    "statistics",
    "takes_bfloat16",
    "try_model",
    "try_to_compile",
    "wants_bfloat16",
]
