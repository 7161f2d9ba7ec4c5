"""One job's directory: the rendered script, the launcher that runs inside the job, and what each application needs.

``applications`` says how JupyterLab and others are started, ``render`` makes the job script from a template, ``shell`` places values
in shell text, ``files`` puts a job's files together. ``launch.py`` is not imported: it is copied to the cluster and runs there, with
whatever Python the node has. Writing the files, submitting and watching are left to :mod:`batchhub.control`.
"""
