"""Drawings of samples for people: contact sheets, videos and HTML pages."""
