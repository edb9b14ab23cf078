"""Preferences: records, pairs of rows, and their batches."""

from ironloom.data.preferences.data import DPOData, PreferencePairs, collate_pairs

__all__ = ["DPOData", "PreferencePairs", "collate_pairs"]
