"""The models: one file for each paper."""
