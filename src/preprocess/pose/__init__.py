"""Poses of people in images: the backends that find them, and what these have in common (`backend.py`)."""
