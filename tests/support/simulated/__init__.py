"""A simulation of runs: the code of `datamodules.run` over a simulated file system, clock and machines.

| module       | content                                                                                     |
|--------------|---------------------------------------------------------------------------------------------|
| `choices.py` | the random choices: drawn from a seed, recorded, replayed, shrunk                           |
| `files.py`   | the file system: hard links, fsync, what a crash leaves, what NFS clients cache             |
| `bucket.py`  | the bucket: its objects, and a client whose requests get lost, late, slow, or answered 409  |
| `world.py`   | machines, processes and tasks (greenlets), the clock, the faults, the story                 |
| `modules.py` | stand-ins for `os`, `time`, `threading`, `open`, `Path` in the modules of a run             |
| `line.py`    | ranks that do a run under faults, and the checks of the run                                 |
| `crowd.py`   | many ranks that claim shards in a bucket without faults, for a benchmark                    |

At every operation on a file another task may continue, or something may fail. A seed always gives the same story. For
speed, two things are cached between simulations: encoded tables by their rows, and decoded plans by their bytes.
"""
