"""Every error that Framemill raises on purpose, with the exit status of the command that it ends::

    FramemillError
    ├── ConfigError          an option or the installation is wrong; nothing was started     exit status 2
    ├── CorpusError          the corpus cannot be listed as asked                            exit status 2
    ├── RunError             the folder is no run, another run's, or damaged                 exit status 2
    ├── EnvironmentFailure   disk, mount or device failed under the run; it can go on later  exit status 3
    ├── TooManyFailures      so many items failed that something must be wrong with the run      exit status 4
    └── ItemError            one item cannot be used; it becomes a failure row, the run goes on
        ├── ListingError     the listing of the corpus found that it cannot be used
        ├── DecodeError      its frames cannot be read
        │   ├── MissingError     its files are not there any more
        │   └── ChangedError     its files are not those that were planned
        └── ExtractError     the model cannot handle it

| class of a failure           | what                                                        | attempts       |
|------------------------------|-------------------------------------------------------------|----------------|
| `listing`                    | ListingError; none of the item's files is opened            | 1              |
| `decode` `missing` `changed` | the errors above                                            | 1              |
| `extract`                    | ExtractError                                                | 1              |
| `io`                         | the file system cannot give the bytes (EIO, ESTALE, EACCES) | `max_attempts` |
| `memory`                     | memory, or the GPU's, does not suffice for the item alone   | `max_attempts` |
| `timeout`                    | no end in sight: a decoder or a model that hangs            | `max_attempts` |
| `crash`                      | the process died of it                                      | `max_attempts` |
"""


class FramemillError(Exception):
    """Base of all errors meant for the user: one line that says what is wrong, where, and what to do."""

    exit_status = 2


class ConfigError(FramemillError):
    """An option or the installation is wrong; the message shows the value and what would be valid."""


class CorpusError(FramemillError):
    """The corpus cannot be listed as asked: a missing folder, a row without its frames, two items of one key."""


class RunError(FramemillError):
    """A folder is no run, belongs to a run with another fingerprint, or has nothing that was asked for."""


class EnvironmentFailure(FramemillError):
    """The environment failed (disk full, folder read-only, mount gone): no item is to blame, the run can go on."""

    exit_status = 3


class TooManyFailures(FramemillError):
    """More items failed than `max_failures` allows; what is done is kept, and the run can go on with another limit."""

    exit_status = 4


class ItemError(FramemillError):
    """One item cannot be used. The message is the reason kept in the shard's table, `reason_class` its class."""

    reason_class: str


class ListingError(ItemError):
    """The listing of the corpus found that an item cannot be used: `Item.problem` says why."""

    reason_class = "listing"


class DecodeError(ItemError):
    """An item's frames cannot be read."""

    reason_class = "decode"


class MissingError(DecodeError):
    """An item's files are not there any more."""

    reason_class = "missing"


class ChangedError(DecodeError):
    """An item's files are not those that were planned."""

    reason_class = "changed"


class ExtractError(ItemError):
    """The model cannot handle an item's frames."""

    reason_class = "extract"
