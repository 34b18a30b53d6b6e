"""Prompts are split into classes."""

import pytest

from datamodules.errors import ExtractError
from preprocess.tracking.prompt import classes_of, text_of


@pytest.mark.parametrize(
    ("prompt", "classes"),
    [
        ("car. person.", ("car", "person")),
        ("car", ("car",)),
        ("  Red  Car .PERSON", ("red car", "person")),
        ("car. Car. . car.", ("car",)),
        ("dog\n.\tcat", ("dog", "cat")),
    ],
)
def test_classes_are_trimmed_in_lower_case_and_unique(prompt: str, classes: tuple[str, ...]) -> None:
    assert classes_of(prompt) == classes


@pytest.mark.parametrize("prompt", ["", " ", ".", " . . "])
def test_a_prompt_without_classes_fails(prompt: str) -> None:
    with pytest.raises(ExtractError, match=r"names nothing to look for\. Write classes, such as 'car\. person\.'"):
        classes_of(prompt)


@pytest.mark.parametrize("name", ["car, person", "car; person", "car|person", "汽车、人", "car. Dog, cat"])
def test_a_class_with_another_separator_fails(name: str) -> None:
    with pytest.raises(ExtractError, match=r"has one class '.*'\. Separate classes by '\.', as in 'car\. person\.'"):
        classes_of(name)


def test_the_text_for_the_model_ends_each_class_with_a_full_stop() -> None:
    assert text_of(classes_of("Car. red  person")) == "car. red person."
