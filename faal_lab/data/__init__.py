"""Load image data sets as uint8 tensors on the device, split into train, validation and test.

To add a data set, write one loader and add one row to `LOADERS` in `sets.py`.
"""
