"""faal_lab: see, steer and fix the class-wise robustness of neural networks."""

from importlib import metadata

__version__ = metadata.version("faal-lab")
