"""Traits by concern, frozen into settings at start; clusters and profiles."""
