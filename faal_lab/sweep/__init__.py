"""Batches of papermill runs: a file that states an experiment becomes jobs, which are made, resumed and reported.

plan (what is to be made) → checks (what can be known to be wrong) → fingerprint (what need not be made again) → engine and
cluster (who makes it) → job (one papermill run in its own process) → status (what became of it) → view (what one sees).
Must not know: attacks, methods, figures. A job is a notebook and its parameters.
"""
