"""Turn verdicts and events into tables, figures, a report, and a pass or fail for pipelines."""
