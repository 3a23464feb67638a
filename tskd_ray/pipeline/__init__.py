"""Stages in order, content-addressed artifacts, the record of a run."""
