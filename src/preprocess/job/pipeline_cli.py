"""Parse the configuration of a job, YAML files and options of the command line, with Lightning's CLI."""

import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from datamodules import FramesDataModule
from datamodules.corpus import Corpus
from datamodules.errors import ConfigError, FramemillError
from datamodules.run.retries import RetryRequest
from preprocess.configurations import with_config
from preprocess.job.extractor import Extractor
from preprocess.job.folder_config import FolderConfig, denied_import
from preprocess.job.output import Output
from preprocess.job.pipeline_help import HelpAction, PipelineParser
from preprocess.job.placement import is_first_on_machine
from preprocess.job.session import TRAINER_DEFAULTS, Job
from preprocess.terminal import escaped_output, note


class PipelineCLI(LightningCLI):
    """Parses a configuration: `model` (an extractor), `data`, `output` (`Output`) and `trainer`.

    Args:
        folder: configuration of the run to retry; the command line overrides it. None: use only the command line and
            its `--config` files.
        command: parser of the command's own options, for `--help`; None: the command has a help of its own.
        options: options of `LightningCLI`.
    """

    def __init__(
        self, folder: FolderConfig | None = None, command: PipelineParser | None = None, **options: Any
    ) -> None:
        self._folder, self._command = folder, command
        super().__init__(Extractor, FramesDataModule, **options)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line over the configuration of the folder, if one is given."""
        if self._folder is None:
            super().parse_arguments(parser, args)
            return
        # items that failed may all fail again
        output = {"dir": self._folder.location, "scratch": None, "only": None, "max_failures": "100%"}
        self.config = parser.parse_args(args, namespace=self._folder.parse(parser, output))
        if (line := self._folder.left_out(self.config)) and is_first_on_machine():
            note(line, "yellow")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the section `output`, the Trainer's defaults for preprocessing, and `--help`."""
        if self._command:
            parser.add_argument("-h", "--help", "--help-all", action=HelpAction, command=self._command)
        parser.add_class_arguments(Output, "output")
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})

    def instantiate_classes(self) -> None:
        """Make the extractor, the DataModule and the output options. A `Session` makes the Trainer later."""
        made = self.parser.instantiate(self.config)
        self.data: FramesDataModule = made["data"]
        self.extractor: Extractor = made["model"]
        self.output: Output = made["output"]
        self.trainer_options: dict[str, Any] = dict(made["trainer"])

    def job(self, corpus: Corpus | None = None, retry: RetryRequest | None = None) -> Job:
        """Return the job that the configuration describes.

        Args:
            corpus: the planned corpus, for a retry; None: the corpus of the configuration.
            retry: which items to try again; None: process the run itself.

        Raises:
            ConfigError: the configuration has no corpus.
        """
        corpus = corpus or self.data.corpus
        if corpus is None:
            raise ConfigError("no corpus is configured. Set data.corpus")
        text = self.parser.dump(self.config, skip_none=False) if retry is None else None
        return Job(self.extractor, corpus, self.data, self.output, self.trainer_options, text, retry)


def parse_pipeline(
    argv: Sequence[str], folder: FolderConfig | None = None, command: PipelineParser | None = None
) -> PipelineCLI:
    """Parse the options of `preprocess run`.

    Args:
        argv: the options, which the name of an installed configuration may precede.
        folder, command: see `PipelineCLI`.

    Raises:
        ConfigError: an option or the name is unknown, or an option has a wrong value. The message is one line.
    """
    if folder is None:
        argv = with_config(argv)
    imports = folder.importing_named() if folder else nullcontext()
    with warnings.catch_warnings(), imports, escaped_output():  # `retry --print_config` prints text of the folder
        # these warnings are about Lightning's use of jsonargparse; users can do nothing about them
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"lightning|jsonargparse")
        try:
            return PipelineCLI(
                folder,
                command,
                args=[with_section(argument) for argument in argv],
                run=False,
                subclass_mode_model=True,
                save_config_callback=None,
                seed_everything_default=False,
                auto_configure_optimizers=False,
                parser_kwargs={"prog": "preprocess run", "add_help": False, "exit_on_error": False},
            )
        except ArgumentError as error:
            raise ConfigError(denied_import(str(error)) or _in_one_line(str(error))) from error
        except (ValueError, TypeError) as error:  # jsonargparse wraps what a constructor raised
            cause = next((cause for cause in _causes(error) if isinstance(cause, (FramemillError, ImportError))), None)
            if isinstance(cause, FramemillError):
                raise cause from None
            if cause:  # a package of a logger, for example, is not installed
                raise ConfigError(" ".join(str(cause).split())) from error
            if folder:  # some wrong types in its configuration are detected only when the objects are made
                reason = denied_import(str(error)) or _in_one_line(str(error))
                raise ConfigError(f"{folder.path} cannot be used with these options: {reason}") from error
            raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error from which `error` was raised, the one from which that was, and so on."""
    while error.__cause__:
        error = error.__cause__
        yield error


def with_section(argument: str) -> str:
    """Return an option in its long form.

    `--data.root` becomes `--data.corpus.init_args.root`: an option that the DataModule does not have belongs to its
    corpus. `--max-failures` becomes `--output.max_failures`, and so does every option of `Output`.
    """
    plain = argument.removeprefix("--").partition("=")[0].replace("-", "_")
    if argument.startswith("--") and plain in Output.__annotations__:
        return f"--output.{plain}{argument[2 + len(plain) :]}"
    section, _, rest = argument.partition(".")
    name = rest.partition("=")[0].partition(".")[0]
    own = FramesDataModule.__init__.__annotations__
    return f"--data.corpus.init_args.{rest}" if section == "--data" and name and name not in own else argument


def _in_one_line(message: str) -> str:
    """Return jsonargparse's message without the lines that repeat the given value or list type alternatives."""
    noise = ("Does not validate", "Subtypes:", "Errors:", "- Expected a <class 'NoneType'>", "Given value")
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line.removeprefix("- ") for line in lines if line and not line.startswith(noise))
