"""Composition roots and the command line."""
