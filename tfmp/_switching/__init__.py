"""Precision that changes while a model trains: planned, whole, undone."""
