"""Stills: single pictures of rendered scenes, on which the tiny towers are pretrained."""
