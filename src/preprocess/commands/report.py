"""`preprocess report`: a page with what became of a run, to look at in a browser."""

import os
import webbrowser
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import track

from datamodules.errors import ConfigError
from datamodules.object_store import is_url
from datamodules.run.bucket import open_store
from datamodules.run.folder import Run
from datamodules.run.store import Folder, Store
from preprocess.commands.arguments import add_kind, parser_of
from preprocess.destination import Destination, destination, each
from preprocess.export.destination import whole_folder
from preprocess.report.document import document
from preprocess.report.page import page
from preprocess.terminal import Parser, Terminal, note, say

PAGE = "index.html"
_MEDIA = "media"
_OWN = "report"  # the folder of a run for its report


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess report`, print where the page is, and return the exit status."""
    options = parser().parse_args(arguments)
    if options.samples < 0:
        raise ConfigError(f"--samples {options.samples}: give 0 or more")
    # the commands on the page are copied to other folders
    run = Run(options.folder if is_url(options.folder) else os.path.abspath(options.folder))
    if options.root:
        run.plan.roots = [options.root, *run.plan.roots]
    compared = Run(options.compare) if options.compare else None
    with _own_folder(run.store) if options.dest is None else destination(options.dest) as dest:
        written = write_report(run, dest.folder, options.samples, compared, may_replace=options.dest is None)
    say(dest.locate(written))
    if options.open:
        _open(dest, written)
    return 0


def parser() -> Parser:
    """Return the parser of the command's options."""
    parser = parser_of(
        "report",
        "Make a page with what became of a run: counts, a timeline, failures, distributions, and a gallery of samples "
        "to look at and flag. It needs no server and no network.",
    )
    parser.add_argument(
        "--dest",
        metavar="D",
        help="new folder to write to, or URL of one in a bucket (default: O/report, which is replaced)",
    )
    parser.add_argument(
        "--samples", metavar="N", type=int, default=500, help="samples in the gallery, at most (default: 500)"
    )
    parser.add_argument("--compare", metavar="O2", help="folder or URL of a run to compare with")
    parser.add_argument("--root", metavar="R", help="folder or URL of the corpus, if it has moved since it was planned")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    add_kind(parser)
    return parser


def write_report(
    run: Run, folder: Path, num_samples: int, compared: Run | None = None, may_replace: bool = False
) -> Path:
    """Write the page of a run and its media to a folder. Return the path of the page.

    Args:
        run: the run.
        folder: a new or empty folder; with `may_replace`, also the folder of an earlier report.
        num_samples: number of samples in the gallery, at most.
        compared: another run to compare with; None: none.
        may_replace: replace what is in `folder`, once the new page is complete.

    Raises:
        ConfigError: `folder` is not empty, or the sample kind cannot be used.
        RunError: a plan, record or table of the run is damaged.
    """
    with whole_folder(folder, may_replace) as new:
        made = document(run, new / _MEDIA, num_samples, compared, _track)
        (new / PAGE).write_text(page(made), "utf-8", "replace")
    return folder / PAGE


def _track(entries: Iterable[dict[str, Any]], total: int) -> Iterator[dict[str, Any]]:
    console = Terminal(stderr=True)
    disable = not console.is_terminal  # elsewhere it would print an empty line
    yield from track(entries, "drawing", total, console=console, transient=True, disable=disable)


@contextmanager
def _own_folder(store: Store) -> Iterator[Destination]:
    """Yield the destination `report` in the run. In a bucket the report that is there is removed before."""
    location = store.locate(_OWN)
    own = open_store(location)
    if isinstance(own, Folder):
        if own.path.is_symlink() or (own.path.exists() and not own.path.is_dir()):
            raise ConfigError(f"{own.path} is not a folder. Remove it, or give --dest")
        if not os.access(own.path.parent, os.W_OK):
            raise ConfigError(f"{own.path.parent} cannot be written to. Give a folder to write to: --dest")
        yield Destination(own.path)
        return
    each(own.remove, [*own.names(), *(f"{_MEDIA}/{name}" for name in own.names(_MEDIA))])
    with destination(location) as dest:
        yield dest


def _open(dest: Destination, written: Path) -> None:
    """Open the page in the user's browser; say where it is if there is none."""
    if dest.url or not webbrowser.open(written.absolute().as_uri()):
        note(f"no browser could open {dest.locate(written)}: open it yourself", "yellow")
