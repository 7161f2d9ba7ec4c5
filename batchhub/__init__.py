"""BatchHub: a multi-user notebook hub for HPC clusters. ``docs/architecture.md`` says what is where."""

__version__ = "0.1.0"
