"""faal_lab: see, steer and fix the class-wise robustness of neural networks."""

import os
from typing import Any

# OpenMP's idle threads shall give their core up soon, in this process and in those it starts: torch, which is loaded later, reads
# this once. By default they spin for milliseconds. Two cores, digits, FAAL: 55 batches a second alone and 6 to 12 beside two busy
# processes; so, 48 and 18; passively, 32 and 26. Whoever sets a policy keeps it.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"


def __getattr__(name: str) -> Any:
    if name == "__version__":  # read when asked for: the lookup takes longer than the import
        from importlib import metadata

        return metadata.version("faal-lab")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
