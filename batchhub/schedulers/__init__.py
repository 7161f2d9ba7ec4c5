"""Scheduler dialects: pure command builders and answer readers, one module each."""
