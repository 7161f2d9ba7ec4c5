"""Run a command and keep a file on a login node: locally, by sudo, or over pooled SSH."""
