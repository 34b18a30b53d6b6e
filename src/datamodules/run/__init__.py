"""The run: plan, leases, spool and commit, retries, reading back. Imports no torch."""
