"""Example models and data that the specs in `specs/` train."""
