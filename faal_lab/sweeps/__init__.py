"""Turn a sweep file (YAML) into papermill jobs; make, resume and report them.

A job is a notebook and its parameters. The modules, in the order of their work: plan (jobs to make) -> checks (mistakes
found beforehand) -> status (results to keep) -> engine and cluster (this machine or others) -> job (one papermill run in its
own process) -> view (text for terminal and table).
"""
