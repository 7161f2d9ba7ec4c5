"""The control plane: poller, reconciler, launcher, and the service that pages and API use."""
