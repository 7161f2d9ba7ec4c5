"""The REST API below ``/hub/api``, in JupyterHub's shape, and the hub's own addresses for jobs and monitoring."""
