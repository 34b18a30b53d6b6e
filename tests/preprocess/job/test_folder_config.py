"""The configuration in someone else's run folder cannot run code or send data elsewhere."""

import os
import sys
from argparse import ArgumentError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.errors import ConfigError
from datamodules.run.store import Folder
from preprocess.captioning.server import Server
from preprocess.job.folder_config import FolderConfig, named_classes
from preprocess.job.pipeline_cli import parse_pipeline

Parsed = Callable[..., tuple[Namespace, str]]

SERVED = "preprocess.captioning.served.ServedModel"
LOCAL = "preprocess.captioning.local.LocalModel"
SERVER = {"url": "http://elsewhere/v1", "api_key_env": "AWS_SECRET_ACCESS_KEY", "max_retries": 1}
POSE = "preprocess.pipelines.pose.Pose"


def extractor(options: Any, class_path: str = "preprocess.pipelines.captions.Captions") -> dict[str, Any]:
    return {"class_path": class_path, "init_args": options}


def captions(class_path: str = SERVED, **options: Any) -> dict[str, Any]:
    """Return the section of the extractor `Captions` with this backend."""
    return extractor({"backend": {"class_path": class_path, "init_args": {"model": "m", **options}}})


def written(folder: Path, sections: dict[str, Any] | str | bytes) -> Folder:
    """Write a `config.yaml` with these sections, or with this content."""
    text = sections if isinstance(sections, (str, bytes)) else yaml.safe_dump(sections)
    (folder / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Folder(folder)


@pytest.fixture(scope="module")
def parser() -> LightningArgumentParser:
    """Return the parser of `preprocess run`."""
    return parse_pipeline(["--model", "support.brightness.Brightness", "--output.dir", "nowhere"]).parser


@pytest.fixture
def parsed(tmp_path: Path, parser: LightningArgumentParser) -> Parsed:
    """Return the configuration and the line about left-out options that `retry` makes of sections and arguments."""

    def parse(sections: dict[str, Any], *arguments: str) -> tuple[Namespace, str]:
        folder = FolderConfig(written(tmp_path, sections), named_classes(arguments))
        with folder.importing_named():
            config = parser.parse_args(arguments, namespace=folder.parse(parser, {"dir": "nowhere"}))
        return config, folder.left_out(config) or ""

    return parse


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A class in a module that can be imported, and is in `sys.modules` once it was."""
    (tmp_path / "evil_module.py").write_text("class Evil: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    return "evil_module.Evil"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": extractor({}, "evil_module.Evil")}, "add --model evil_module.Evil"),
        (
            {"model": extractor({"backend": {"class_path": "evil_module.Evil"}}, POSE)},
            "add --model.backend evil_module.Evil",
        ),
        ({"model": extractor({"backend": "evil_module.Evil"}, POSE)}, "is not allowed"),
        ({"model": captions(server="{class_path: evil_module.Evil}")}, "is not allowed"),
        ({"model": captions(), "output": {"shards": {"class_path": "evil_module.Evil"}}}, "is not allowed"),
        ({"model": extractor({}, "evil_module.Evil; rm x")}, "which is not of the form package.module.Class"),
        ({"model": extractor({}, "preprocess.cli.sys.exit")}, r"Importing 'sys\.exit' is not allowed"),
    ],
)
def test_a_class_that_the_command_line_does_not_name_is_not_imported(
    evil: str, parsed: Parsed, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, ArgumentError, ValueError), match=message):
        parsed(sections)
    assert evil.partition(".")[0] not in sys.modules


def test_classes_are_named_by_options_in_any_form_and_by_configuration_files(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model: {class_path: own.A, init_args: {parts: [{class_path: own.parts.B}]}}\n")
    arguments = ["--config", str(config), "--model.x=own.C", "--data.corpus", "own.D", "--max-failures", "1.5"]
    arguments += [
        "--trainer.callbacks",
        "[{class_path: own.E}]",
        "--model.prompt",
        "a b.C",
        "--data.root",
        "caf\udce9.D",
    ]
    assert named_classes(arguments) == {"own.A", "own.parts.B", "own.C", "own.D", "own.E"}


def test_options_that_reach_beyond_the_folder_are_left_out_and_listed(evil: str, parsed: Parsed) -> None:
    trainer = {
        "accelerator": "cpu",
        "devices": 2,
        "callbacks": [{"class_path": evil}],
        "profiler": {"class_path": evil},
        "strategy": {"class_path": evil},
        "default_root_dir": "/somewhere; rm x",
        "max_steps": -1,
        "unknown; rm x": 1,
    }
    for server in (SERVER, str(SERVER)):  # also as text, which jsonargparse reads as YAML
        config, line = parsed({"model": captions(server=server, max_new_tokens=7), "trainer": trainer})
        backend = config.model.init_args.backend.init_args
        assert backend.max_new_tokens == 7
        assert vars(backend.server) == {**vars(Server()), "max_retries": 1}
        assert (config.trainer.accelerator, config.trainer.devices) == ("cpu", 2)
        assert (config.trainer.strategy, config.trainer.callbacks) == ("auto", None)
        assert set(line.partition(" also has ")[2].partition(". Left out")[0].split(", ")) == {
            "--trainer.strategy",
            "--trainer.callbacks",
            "--trainer.profiler",
            "--trainer.default_root_dir '/somewhere; rm x'",
            "--model.backend.server.url http://elsewhere/v1",
            "--model.backend.server.api_key_env AWS_SECRET_ACCESS_KEY",
        }
    assert evil.partition(".")[0] not in sys.modules


def test_trust_in_code_that_a_checkpoint_brings_is_left_out(parsed: Parsed) -> None:
    described = captions(LOCAL, trust_remote_code=True, num_beams=2)
    for backend in (described["init_args"]["backend"], str(described["init_args"]["backend"])):
        config, line = parsed({"model": extractor({"backend": backend})})
        assert config.model.init_args.backend.init_args.num_beams == 2
        assert config.model.init_args.backend.init_args.trust_remote_code is False
        assert "also has --model.backend.trust_remote_code true. Left out" in line
    config, line = parsed({"model": described}, "--model.backend.trust_remote_code", "true")
    assert config.model.init_args.backend.init_args.trust_remote_code is True
    assert not line


def test_an_option_that_the_command_line_repeats_counts(tmp_path: Path, parsed: Parsed) -> None:
    sections = {"model": captions(server=SERVER), "trainer": {"max_time": "00:01:00:00"}}
    mine = tmp_path / "mine.yaml"
    mine.write_text("trainer: {max_time: '00:01:00:00'}\n")
    config, line = parsed(sections, "--model.backend.server.url", "http://elsewhere/v1", "--config", str(mine))
    assert config.model.init_args.backend.init_args.server.url == "http://elsewhere/v1"
    assert config.trainer.max_time == "00:01:00:00"
    assert "also has --model.backend.server.api_key_env AWS_SECRET_ACCESS_KEY. Left out" in line


def test_a_backend_that_passes_its_options_on_inherits_which_of_them_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parsed: Parsed
) -> None:
    (tmp_path / "own_served.py").write_text(
        "from preprocess.captioning.served import ServedModel\n"
        "class OwnServed(ServedModel):\n"
        "    def __init__(self, extra: int = 1, **options):\n"
        "        super().__init__(**options)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = captions("own_served.OwnServed", extra=2, server=SERVER)
    config, line = parsed({"model": own}, "--model.backend", "own_served.OwnServed")
    backend = config.model.init_args.backend.init_args
    assert (backend.extra, backend.server.url) == (2, Server().url)
    assert "--model.backend.server.url http://elsewhere/v1, --model.backend.server.api_key_env" in line


def test_options_of_each_backend_in_a_list_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parsed: Parsed
) -> None:
    (tmp_path / "own_captions.py").write_text(
        "from preprocess.captioning.backend import CaptionBackend\n"
        "from preprocess.pipelines.captions import Captions\n"
        "class OwnCaptions(Captions):\n"
        "    def __init__(self, backends: list[CaptionBackend]):\n"
        "        super().__init__(backends[0])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    backends = [captions(server=SERVER)["init_args"]["backend"] for _ in range(2)]
    config, _ = parsed(
        {"model": extractor({"backends": backends}, "own_captions.OwnCaptions")}, "--model", "own_captions.OwnCaptions"
    )
    urls = [backend.init_args.server.url for backend in config.model.init_args.backends]
    assert urls == [Server().url] * 2


def test_the_configuration_of_a_run_as_it_is_written_leaves_nothing_out(
    tmp_path: Path, parser: LightningArgumentParser
) -> None:
    config = parser.parse_object({"model": captions(), "data": {"num_workers": 0}, "output": {"dir": "run"}})
    folder = FolderConfig(written(tmp_path, parser.dump(config, skip_none=False)), ())
    with folder.importing_named():
        assert folder.parse(parser, {}).as_dict() == config.as_dict()
    assert folder.left_out(config) is None


def test_a_mapping_that_names_a_class_in_an_untyped_option_makes_no_object(tmp_path: Path) -> None:
    made = tmp_path / "made"  # written by the constructor
    named = {"class_path": "preprocess.tracking.recording.Recording", "init_args": {"folder": str(made)}}
    sections = {"model": captions(chat_template_kwargs={"a": named})}
    with pytest.raises(ConfigError, match="cannot be sent as JSON"):
        parse_pipeline([], FolderConfig(written(tmp_path, sections), ()))
    assert not made.exists()


def test_commands_that_follow_in_the_process_import_what_they_name(tmp_path: Path) -> None:
    parse_pipeline([], FolderConfig(written(tmp_path, {"model": captions()}), ()))
    cli = parse_pipeline(["--model", "support.brightness.Brightness", "--output.dir", "nowhere"])
    assert type(cli.extractor).__name__ == "Brightness"


def test_no_other_configuration_file_is_taken(tmp_path: Path, parsed: Parsed) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("{fallback: true}")
    with pytest.raises(ConfigError, match=r"names another configuration file, .*other\.yaml"):
        parsed({"model": captions(), "data": {"decoding": str(other)}})
    other.write_text("{url: http://elsewhere/v1}")
    with pytest.raises(ConfigError, match=r"names another configuration file, .*other\.yaml"):
        parsed({"model": captions(server=str(other))})
    other.write_text("{data: {decoding: {fallback: true}}}")
    config, _ = parsed({"model": captions(), "config": str(other), "data": {"corpus": {"class_path": "evil.Corpus"}}})
    assert (config.data.decoding.fallback, config.data.corpus) == (False, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is not a mapping"),
        ("- 1\n", "it is not a mapping"),
        ("model: text\n", "its model is str, not a mapping"),
        ("model: {class_path: null}\n", "it does not name an extractor"),
        ("{a: " * 500 + "1" + "}" * 500, "or 50 levels"),
        ("[" * 100_000, "it is not YAML"),
        ("a: [" + "1, " * 11_000 + "]", "it has more than 10,000 values"),
        ("model: &a {class_path: *a}\n", "it has more than 10,000 values"),
        ("a: &a [x, x]\n" + "".join(f"b{i}: &a [*a, *a]\n" for i in range(30)), "it has more than 10 aliases"),
        ("a: " + "x" * 300_000, "it has more than 262,144 bytes"),
        (b"\xff\xfe\x00", "can't decode byte"),
        ("a: " + "1" * 5000, "Exceeds the limit"),
        ("a: 0x" + "f" * 5000, "it has an integer of more than 64 bits"),
        ("a: !!python/object/apply:os.system [true]\n", "it is not YAML: could not determine a constructor"),
        ("a: !!set {b}\n", "it has a value of type set"),
        ("a: \0", "it is not YAML"),
    ],
)
def test_an_absurd_configuration_is_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        FolderConfig(written(tmp_path, content), ())
    assert "config.yaml cannot be used to retry" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "section",
    [
        {"data": {"decoding": [1]}},
        {"model": captions(server=[1])},
        {"model": extractor({**captions()["init_args"], 3: 4})},
    ],
)
def test_a_value_of_a_wrong_type_is_one_line(tmp_path: Path, section: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_pipeline([], FolderConfig(written(tmp_path, {"model": captions(), **section}), ()))
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="a FIFO"):
        FolderConfig(Folder(tmp_path), ())
