"""`preprocess export`: the samples of a run in a format that other code reads."""

from collections.abc import Sequence

from preprocess.commands.arguments import add_dest, add_samples, parser_of
from preprocess.export.format import export, format_names, options_of
from preprocess.terminal import say

_FORMAT_OPTIONS = (
    "Options of formats, which come last: --coordinates processed or original, of openpose-txt, openpose-json, "
    "coco-keypoints and controlnet; --people best or all, and --missing -1, of openpose-txt; --image_ids order or "
    "name, of coco-keypoints."
)


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess export`, print the files that it has written, and return its exit status."""
    parser = parser_of("export", "Write the samples of a run in a format that other code reads.")
    parser.add_argument("--format", required=True, help=", ".join(format_names()))
    add_dest(parser)
    add_samples(parser)
    parser.epilog = _FORMAT_OPTIONS
    options, more = parser.parse_known_args(arguments)
    for path in export(options.folder, options.format, options.dest, **options_of(options.format, more)):
        say(str(path))
    return 0
