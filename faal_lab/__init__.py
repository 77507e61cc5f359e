"""faal_lab: see, steer and fix the class-wise robustness of neural networks."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "__version__":  # read when asked for: the lookup takes longer than the import
        from importlib import metadata

        return metadata.version("faal-lab")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
