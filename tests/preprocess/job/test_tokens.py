"""Generated tokens are counted where results have them."""

from datamodules.errors import ExtractError
from preprocess.captioning.caption import Caption
from preprocess.job.tokens import count_tokens
from preprocess.pipelines.captions import Answer


def test_tokens_of_captions_are_summed_and_other_results_count_as_0() -> None:
    answers = [Answer("Describe it.", Caption("a cup", "ok", num_tokens)) for num_tokens in (3, 4)]
    assert count_tokens([*answers, ExtractError("the model gave no text"), None]) == 7
