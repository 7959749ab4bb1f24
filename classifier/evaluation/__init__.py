"""Scores of a network: metrics, comparisons, plots, reports."""
