"""Annotations that people draw in other programs: one module for each format, and what all of them share."""
