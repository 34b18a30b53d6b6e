"""Switches the garbage collector off. The fork server imports this module before all others, and `imports_end` last.

Importing torch makes 300,000 objects and no garbage. To look for it meanwhile takes half a second of CPU.
"""

import gc

gc.disable()
