"""Readers of the raw files' formats, which several converters share."""
