"""A simulation of the line: its code runs unchanged over a simulated file system, clock and machines.

| module       | what                                                                                        |
|--------------|---------------------------------------------------------------------------------------------|
| `choices.py` | what chance decides: drawn from a seed, recorded, replayed, shrunk                          |
| `files.py`   | the file system: hard links, what is fsynced, what a crash leaves, what NFS clients cache   |
| `world.py`   | machines, processes and tasks (greenlets), the clock, the faults, the story                 |
| `modules.py` | stand-ins for `os`, `time`, `threading`, `open`, `Path` in the modules of the line          |
| `line.py`    | ranks that do a run under faults, and what must hold                                        |

Every operation on a file may be the moment at which another task goes on, or at which something fails. Two things are
kept between runs because only their cost is of no interest: tables as Parquet, by their rows, and opened plans, by the
bytes of their files. A seed gives the same story always.
"""
