"""Turn class statistics into class weights, radii or draws: the fairness methods, one file each.

To add a method, write its file and add one row to `FAIRNESS` in `catalogue.py`. An object with the same methods can be
passed directly.
"""
