"""A fake cluster: one engine under several sets of real executables, and an SSH login node before it.

``engine.py`` is what tests use (:class:`~tests.fakesched.engine.Cluster`); ``bin/{slurm,pbs,lsf,docker,podman}`` are the executables, ``kube_api.py`` is an API for the real kubectl;
``login_node.py`` serves them over SSH. Everything but the login node is standard library, and imports little: each command is a
process of its own.
"""
