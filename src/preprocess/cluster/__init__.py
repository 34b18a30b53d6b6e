"""Ranks on the machines of a cluster, started by one command."""
