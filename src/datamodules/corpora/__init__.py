"""Corpora list items and nothing else; each class is named in the configuration by its `class_path`."""
