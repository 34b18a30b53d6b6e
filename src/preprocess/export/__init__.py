"""Exports: the committed samples of a run, in formats that other code reads. A module of `formats` is a format.

The module of the format `phoenix-npz` is `phoenix_npz`; it has `export(run, dest, …) -> list[Path]`, whose further
arguments, all with defaults, are the format's options, and its first lines tell the fields it writes. What all of them
have in common:

- they stream, whatever the number of frames: no more than one sample, or one row group, stands in memory;
- every split of the plan gets its file, and only what is committed is in it. A run that is not complete, or has failed
  items, can be exported: the statistics of each split say how many items were planned, committed, failed and not done,
  and why each failed one did (`statistics.py`);
- files appear together and whole, and none that exists is replaced.
"""
