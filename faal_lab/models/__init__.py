"""Build networks that take pixels in [0, 1] and normalise them inside: radii stay in pixel units.

To add a network, write one class in `networks.py` and add one row to `MODELS` in `build.py`.
"""
