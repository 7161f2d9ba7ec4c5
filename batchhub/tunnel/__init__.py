"""Byte streams to compute nodes, one module for each kind."""
