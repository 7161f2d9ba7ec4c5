"""A fake cluster: one engine under three sets of real executables, and an SSH login node before it.

``engine.py`` is what tests use (:class:`~tests.fakesched.engine.Cluster`); ``bin/{slurm,pbs,lsf}`` are the executables;
``login_node.py`` serves them over SSH. Everything but the login node is standard library, and imports little: each command is a
process of its own.
"""
