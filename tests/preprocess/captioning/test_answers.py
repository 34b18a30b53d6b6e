"""Captions from generated text: thoughts and marks of chat templates are removed, and everything else stays."""

import pytest

from datamodules.errors import ExtractError
from preprocess.captioning.answers import is_mark, opening_mark, read_caption
from preprocess.captioning.caption import Caption

_HARMONY = "<|channel|>analysis<|message|>We see a cat.<|end|><|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(
    "said",
    [
        "<think>It has ears.</think>A cat.",
        "\n<think>\nIt has ears.\n</think>\n\nA cat.\n",
        "It has ears.\n</think>\n\nA cat.",  # the chat template has written the opening mark
        "<think>\n\n</think>\n\nA cat.",
        "<think>It has ears.</think><think>Whiskers too.</think>A cat.",
        "<think>Is <think> a tag?</think>Yes.</think>A cat.",
        "<thinking>It has ears.</thinking>A cat.",
        "<thought>It has ears.</thought>A cat.",
        "<reasoning>It has ears.</reasoning><answer>A cat.</answer>",
        "<mm:think>It has ears.</mm:think>A cat.",
        "◁think▷It has ears.◁/think▷A cat.",
        "[THINK]It has ears.[/THINK]A cat.",
        "<|begin_of_thought|>It has ears.<|end_of_thought|><|begin_of_solution|>A cat.<|end_of_solution|>",
        "<|START_THINKING|>It has ears.<|END_THINKING|><|START_RESPONSE|>A cat.<|END_RESPONSE|>",
        "<|channel>thought\nIt has ears.<channel|>A cat.<turn|>",
        f"{_HARMONY}A cat.<|return|>",
        f"<|start|>assistant{_HARMONY}A cat.<|end|>",
        "<|channel|>final<|message|>A cat.",
        "<|channel|>commentary<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>A cat.",
        "analysisWe see a cat.assistantfinalA cat.",  # a server that leaves special tokens out
        "<think>It has ears.</think><answer>A cat.</answer>",
        "<answer>A cat.</answer>\n\nThat was the answer.",
        "<think>It has ears.</think>\n<|begin_of_box|>A cat.<|end_of_box|>",
        "A <|begin_of_box|>cat.<|end_of_box|>",
        "A cat.<|im_end|>",
        "A cat.<|im_end|>\n<|im_start|>user\nAnd this?",
        "A cat.</s></s>",
        "<s> A cat.</s>",
        "<s> A cat.</s></s><|im_end|>",
        "<pad>A cat.<pad><pad>",
        "<|start_header_id|>assistant<|end_header_id|>\n\nA cat.<|eot_id|>",
        "<start_of_turn>model\nA cat.<end_of_turn>",
        "<think>A <think>? A </think> too.\n</think>\nA cat.",
        "A cat.<|end_of_turn|>",
        "A cat.<|endofturn|>",
        "A cat.<|observation|>",
        "A cat.[EOS]",
        "<|im_start|>assistant\n<think>\n\n</think>\n\nA cat.<|im_end|>",
        " A cat. <end_of_utterance>\n",
        "A cat.<|eot_id|><|start_header_id|>assistant",
        "A cat.<|endoftext|>A dog.",
        "A cat.<end_of_turn>\n<eos>",
        "A cat.<|end|>",
        "A cat.<｜end▁of▁sentence｜>",
    ],
)
def test_thoughts_and_marks_are_removed(said: str) -> None:
    assert read_caption(said, 9, is_cut_off=False) == Caption("A cat.", "ok", 9)


@pytest.mark.parametrize(
    "said",
    [
        "A screen with <think>Hm.</think> on it.",
        'A slide about "<think>" and "</think>".',
        "HTML with <s>old</s> prices.",
        "<s>Old</s> prices.",
        "The tag </s> is struck through.",
        'The closing tag "</think>" is shown in blue.',
        "The closing tag `</think>` is shown in blue.",
        "Code that ends with </think> in a terminal.",
        "Code that ends with </think>.",
        "A [/THINK] sign.",
        "A diagram with <|endoftext|> between two documents.",
        'The screen shows "<|im_start|>user Hello<|im_end|>" in green.',
        "<response>ok</response> is printed in a terminal.",
        "A page titled analysis, about the function assistantfinal.",
        "A sign [that] says: think </thing>",
        "I think a cat <3 you.",
    ],
)
def test_marks_inside_a_caption_stay(said: str) -> None:
    assert read_caption(said, 9, is_cut_off=False) == Caption(said, "ok", 9)
    assert read_caption(f"<think>Hm.</think>{said}", 9, is_cut_off=False) == Caption(said, "ok", 9)


@pytest.mark.parametrize(
    ("said", "is_cut_off", "has_thought", "what"),
    [
        ("<think>It has ears, and", True, False, "only thought, and gave no caption"),
        ("<think>It has ears.", False, False, "only thought, and gave no caption"),
        ("It has ears.</think>\n", False, False, "only thought, and gave no caption"),
        ("<|channel|>analysis<|message|>It has", True, False, "only thought, and gave no caption"),
        ("", False, True, "only thought, and gave no caption"),
        ("<|im_end|>", False, True, "only thought, and gave no caption"),
        (" \n", True, False, "gave no text"),
        ("", False, False, "gave no text"),  # a server that keeps thoughts to itself
    ],
)
def test_a_model_that_only_thinks_gives_no_caption(said: str, is_cut_off: bool, has_thought: bool, what: str) -> None:
    with pytest.raises(ExtractError) as failure:
        read_caption(said, 1280, is_cut_off, has_thought)
    assert str(failure.value) == (
        f"the model {what} in 1,280 tokens. Raise --model.backend.max_new_tokens, or turn thinking off, for example by "
        "--model.backend.chat_template_kwargs '{\"enable_thinking\": false}'"
    )


@pytest.mark.parametrize("said", ["", " \n", "<|im_end|>", "<think>\n\n</think>\n\n"])
def test_a_model_that_ends_at_once_gives_an_empty_caption(said: str) -> None:
    assert read_caption(said, 1, is_cut_off=False) == Caption("", "empty", 1)


def test_an_end_mark_after_a_quote_is_removed() -> None:
    assert read_caption('A sign says "hi"<|im_end|>\n', 9, is_cut_off=False) == Caption('A sign says "hi"', "ok", 9)
    said = 'A sign says "hi"<|im_end|>\n<|im_start|>user\nAnd this?'
    assert read_caption(said, 9, is_cut_off=False) == Caption('A sign says "hi"', "ok", 9)


def test_a_caption_that_is_cut_off_after_its_thoughts_is_truncated() -> None:
    assert read_caption("<think>Ears.</think>A cat on", 9, is_cut_off=True) == Caption("A cat on", "truncated", 9)


@pytest.mark.parametrize(
    ("prompt", "mark"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|im_start|>assistant\n", ""),
        ("<think> is a tag.<|im_start|>assistant\n", ""),
        ("<|turn>model\n<|channel>thought\n", "<|channel>thought"),
        ("", ""),
    ],
)
def test_a_prompt_may_end_with_the_opening_mark_of_thoughts(prompt: str, mark: str) -> None:
    assert opening_mark(prompt) == mark


def test_tokens_that_are_marks_or_parts_of_marks_are_recognized() -> None:
    marks = ("<think>", "</think>", "[THINK]", "[/THINK]", "<|channel>", "<channel|>", "<|channel|>", "<|message|>")
    assert [token for token in (*marks, "<|im_end|>", "think", "cat", "</s>") if is_mark(token)] == list(marks)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("a" + " " * 300_000 + "x", "a" + " " * 300_000 + "x"),
        ("x" + " " * 150_000 + "<|im_end|>" + " " * 150_000, "x"),
        ("<s>" * 100_000 + "x", "x"),
        ("x" + "</s>" * 75_000, "x"),
        ("<think></think>" * 20_000 + "x", "x"),
    ],
    ids=["spaces", "spaces around an end mark", "beginnings", "ends", "thoughts"],
)
@pytest.mark.timeout(20)  # each takes less than 1 s; where time grows with the square of the length, minutes
def test_a_long_text_is_read_in_linear_time(said: str, text: str) -> None:
    assert read_caption(said, 9, is_cut_off=False) == Caption(text, "ok", 9)
