"""Fairness methods: class statistics become class weights, radii or draws. One file per method.

To add a method, write one file and add one row to `FAIRNESS` in `catalogue.py`. An object with the same methods can be passed
directly.
"""
