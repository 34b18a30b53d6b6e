"""One thread for each process that computes: tiny models gain nothing by more, and lose much where cores are shared."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in all processes that tests start
