"""`preprocess models`: where the models of MediaPipe Holistic are; or fetch them ahead of a run. Without torch."""

from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal
from rich.table import Table

from preprocess.commands.arguments import local_path
from preprocess.holistic.models import HOLISTIC, MODELS, copies, find_models, sources
from preprocess.terminal import Parser, Terminal, cell, note, say


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess models`.

    Returns:
        The exit status: 1 if a model of a default run is missing, or a file is not the model of its name.
    """
    options = parser().parse_args(arguments)
    if options.fetch:
        find_models((name for name, model in MODELS.items() if model.folder), options.model_dir)
    return _show(options.model_dir)


def parser() -> Parser:
    """Return the parser of the command's options."""
    parser = Parser(
        "preprocess models",
        description="Show the models of MediaPipe Holistic, and where each is: in --model_dir, in the installed "
        "mediapipe, or in the user's cache folder.",
    )
    parser.add_argument(
        "--model_dir",
        metavar="DIR",
        type=local_path,
        help="folder with .tflite files, or with a wheel of mediapipe 0.10.21, which is searched first",
    )
    parser.add_argument(
        "--fetch",
        action="store_true",
        help="put models that are missing into the cache folder, from the wheel in --model_dir, or from the one that "
        "pip downloads: 35 MB",
    )
    return parser


def _show(folder: Path | None) -> int:
    """Print the models, the folders, and the files that are not the model of their name. Returns the exit status."""
    table = Table("model", "used for", "size", "found in", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    wrong, lacking = [], set()
    for name, model in MODELS.items():
        found = list(copies(name, folder))
        wrong += [copy for copy in found if not copy.is_intact]
        used = next((copy for copy in found if copy.is_intact or copy.source == "model_dir"), None)
        if used and used.is_intact:
            state = cell(used.source, "green")
        elif used:
            state = cell("model_dir, but wrong", "red")
        else:
            state = cell("missing", "yellow")
            lacking.add(name)
        table.add_row(name, model.purpose, decimal(model.num_bytes), state)
    Terminal().print(table)
    say("")
    for source, place in sources(folder).items():
        say(f"{source:9}  {place}")
    for copy in wrong:
        effect = "Runs refuse it: remove it" if copy.source == "model_dir" else "It is not used"
        note(f"{copy.path} has another size or sha256 than the model of that name. {effect}", "yellow")
    if fetched := [name for name in lacking if MODELS[name].folder]:
        note(f"{len(fetched)} missing models are fetched when a run needs them, or now by `preprocess models --fetch`")
    return int(not lacking.isdisjoint(HOLISTIC) or any(copy.source == "model_dir" for copy in wrong))
