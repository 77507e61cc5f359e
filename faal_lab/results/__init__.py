"""Verdicts and events become tables, figures, a report, and a pass or fail for pipelines."""
