"""What a run holds and how far it is: `view` and `status`."""
