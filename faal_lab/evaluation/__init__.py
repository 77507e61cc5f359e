"""Measure class-wise robustness: attacks, per-image verdicts, intervals, paired comparison."""
