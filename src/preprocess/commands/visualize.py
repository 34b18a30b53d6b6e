"""`preprocess visualize`: results drawn over the source frames."""

from collections.abc import Sequence

from datamodules.run.folder import Run
from preprocess.commands.arguments import add_dest, add_kind, parser_of
from preprocess.destination import destination
from preprocess.draw.visualize import visualize
from preprocess.terminal import Parser, say


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess visualize`, print the files that it has written, and return its exit status."""
    options = parser().parse_args(arguments)
    run = Run(options.folder)
    if options.root:
        run.plan.roots = [options.root, *run.plan.roots]
    with destination(options.dest) as dest:
        written = visualize(run, dest.folder, options.samples, options.split)
    for path in written:
        say(dest.locate(path))
    return 0


def parser() -> Parser:
    """Return the parser of the command's options."""
    parser = parser_of(
        "visualize",
        "Draw samples for people to look at, as their kind says: skeletons, poses or tracks over the source frames, "
        "and clips, as PNG and MP4; captions beside their images as an HTML page.",
    )
    add_dest(parser)
    add_kind(parser)
    parser.add_argument("--samples", metavar="N", type=int, default=4, help="samples to draw (default: 4)")
    parser.add_argument("--split", help="draw samples of this split only")
    parser.add_argument("--root", metavar="R", help="folder or URL of the corpus, if it has moved since it was planned")
    return parser
