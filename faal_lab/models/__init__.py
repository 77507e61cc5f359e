"""Networks that take pixels in [0, 1] and normalise them inside, so that radii stay in pixel units.

Knows: layers and shapes. Must not know: data sets, attacks, files.
A new network is one file and one row in `MODELS`.
"""

from faal_lab.models.small import Normalize, SmallConvNet
from faal_lab.models.spec import MODELS, ModelSpec, build

__all__ = ["MODELS", "ModelSpec", "Normalize", "SmallConvNet", "build"]
