"""The report of a run: one HTML file that loads nothing from elsewhere."""

from yanmo.report.page import render, write_report

__all__ = ["render", "write_report"]
