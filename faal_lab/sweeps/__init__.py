"""Batches of papermill runs: a YAML file becomes jobs, which are made, resumed and reported.

plan (what is to be made) -> checks (what can be known to be wrong) -> status (what need not be made again) -> engine and
cluster (who makes it) -> job (one papermill run in its own process) -> view (what is printed). A job is a notebook and its
parameters.
"""
