"""Every error that Framemill raises on purpose, with the exit status of the command that it ends::

    FramemillError
    ├── ConfigError          an option or the installation is wrong; nothing was started        exit status 2
    ├── CorpusError          the corpus cannot be listed                                        exit status 2
    ├── RunError             the folder is not a run, is another run's, or is damaged           exit status 2
    ├── EnvironmentFailure   a disk, mount or device failed; the run can be resumed             exit status 3
    ├── TooManyFailures      more items failed than `max_failures` allows                       exit status 4
    └── ItemError            one item cannot be used; it becomes a failure row, the run goes on
        ├── ListingError     the corpus listing found the item unusable
        ├── DecodeError      its frames cannot be read
        │   ├── MissingError     its files are missing
        │   └── ChangedError     its files differ from those that were planned
        └── ExtractError     the model cannot handle it

| class of a failure           | meaning                                                     | attempts       |
|------------------------------|-------------------------------------------------------------|----------------|
| `listing`                    | ListingError; none of the item's files is opened            | 1              |
| `decode` `missing` `changed` | DecodeError, MissingError, ChangedError                     | 1              |
| `extract`                    | ExtractError                                                | 1              |
| `io`                         | the file system cannot give the bytes (EIO, ESTALE, EACCES) | `max_attempts` |
| `memory`                     | out of memory (CPU or GPU) with this item alone             | `max_attempts` |
| `timeout`                    | a decoder or a model hangs                                  | `max_attempts` |
| `crash`                      | the process that worked on the item died                    | `max_attempts` |
"""


class FramemillError(Exception):
    """Base of all errors meant for the user. The message is one line: what is wrong, where, and what to do."""

    exit_status = 2


class ConfigError(FramemillError):
    """An option or the installation is wrong. The message shows the value and what would be valid."""


class CorpusError(FramemillError):
    """The corpus cannot be listed: a folder is missing, a list is malformed, two items have the same key.

    Raised for one row or file of a corpus, it is caught by the corpus, and its message becomes the item's `problem`.
    """


class RunError(FramemillError):
    """A folder is not a run, belongs to a run with another fingerprint, or lacks what was requested."""


class EnvironmentFailure(FramemillError):
    """The environment failed (disk full, folder read-only, mount gone). No item caused it; rerun to resume."""

    exit_status = 3


class TooManyFailures(FramemillError):
    """More items failed than `max_failures` allows. Finished work is kept; a higher limit resumes the run."""

    exit_status = 4


class ItemError(FramemillError):
    """One item cannot be used. The message becomes the reason in the shard's table, `reason_class` its class."""

    reason_class: str


class ListingError(ItemError):
    """The corpus listing found that an item cannot be used; the message is its `Item.problem`."""

    reason_class = "listing"


class DecodeError(ItemError):
    """An item's frames cannot be read."""

    reason_class = "decode"


class MissingError(DecodeError):
    """An item's files are missing."""

    reason_class = "missing"


class ChangedError(DecodeError):
    """An item's files differ from those that were planned."""

    reason_class = "changed"


class ExtractError(ItemError):
    """The model cannot handle an item's frames."""

    reason_class = "extract"
