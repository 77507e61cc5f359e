"""Data sets as uint8 tensors on the device, split into train, validation and test.

Knows: where images come from and how a split is drawn. Must not know: models, attacks, runs.
A new data set is one loader and one row in `LOADERS`.
"""

from faal_lab.data.augment import AUGMENTATIONS, augmented
from faal_lab.data.dataset import Images, Splits
from faal_lab.data.loaders import LOADERS, DataProblem, load
from faal_lab.data.split import stratified

__all__ = ["AUGMENTATIONS", "LOADERS", "DataProblem", "Images", "Splits", "augmented", "load", "stratified"]
