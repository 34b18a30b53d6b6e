"""What the README and the documentation name exists: files, configurations, commands and export formats."""

import re
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import pytest

from preprocess.cli import main

ROOT = Path(__file__).parents[2]
SOURCE = "\n".join(path.read_text() for room in ("src", "examples") for path in (ROOT / room).rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> set[str]:
    """Return the commands that `preprocess --help` lists."""
    with redirect_stdout(StringIO()) as output, suppress(SystemExit):
        main(["--help"])
    return set(re.findall(r"^ {4}([a-z]+)(?: |$)", output.getvalue(), re.MULTILINE))


def formats() -> set[str]:
    """Return the export formats, which are the modules of `preprocess.export.formats`."""
    modules = (ROOT / "src" / "preprocess" / "export" / "formats").glob("[a-z]*.py")
    return {path.stem.replace("_", "-") for path in modules}


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if not link.startswith("http")]
    assert links or page.name != "README.md"
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_configurations_that_a_page_names_exist(page: Path) -> None:
    files = re.findall(r"configs/[\w/]+\.\w+", page.read_text())
    names = re.findall(r" (?:run|estimate|check|configs) (?:\\\n +)?([a-z]\w+) (?:--|…|>|\\)", page.read_text())
    assert [name for name in (*files, *(f"configs/{name}.yaml" for name in names)) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_a_page_names_exist(page: Path) -> None:
    names = set(re.findall(r"^(?:    |\$ |.*`)(?:.*-m )?preprocess ([a-z]+)", page.read_text(), re.MULTILINE))
    assert names - commands() == set()


def test_the_page_of_commands_lists_all_commands_and_export_formats() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    assert [command for command in commands() if f"| `preprocess {command} " not in page] == []
    table = page.partition("## Export formats")[2]
    assert "parquet" in formats()
    assert [name for name in formats() if f"`{name}`" not in table] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_that_a_page_names_exist(page: Path) -> None:
    names = re.findall(r"--(?:data|model|output)\.(?:\w+\.)*([a-z]\w*)", page.read_text())
    arguments = set(re.findall(r"^ +(\w+): ", SOURCE, re.MULTILINE)) | {"dir", "help", "init_args"}
    assert [name for name in names if name not in arguments] == []


def test_the_messages_that_the_page_of_errors_quotes_are_in_the_source() -> None:
    rows = re.findall(r"^\| `+(.+?) ?`+ \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    assert len(rows) > 30
    messages = re.sub(r'"\n\s+f?"', "", SOURCE)  # adjacent literals are one text
    fragments = [fragment for row in rows for fragment in row.split("…")]
    assert [fragment for fragment in fragments if fragment.strip(" ;:.,") not in messages] == []
