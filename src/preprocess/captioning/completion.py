"""The answer of a server to one request: its text, in whatever form servers give it, or the reason why it has none."""

from typing import Any, NamedTuple

from datamodules.errors import ExtractError
from preprocess.captioning.quoting import Quote

HOW_TO_RESUME = "Finished work is safe. Fix the problem and rerun the same command."

_BROKEN_OFF = ("abort", "error")  # finish reasons of vLLM and SGLang
# fields of a message with thoughts: of vLLM, OpenRouter and Ollama; of DeepSeek, SGLang and llama.cpp; of OpenRouter
_THOUGHTS = ("reasoning", "reasoning_content", "reasoning_details")
_TEXT_PARTS = ("text", "output_text")
_THOUGHT_PARTS = ("thinking", "redacted_thinking", "reasoning")  # types of parts of Mistral and Anthropic
_CUT_OFF = ("length", "max_tokens", "model_length")  # finish reasons; the last is Mistral's
_MAX_TOKENS = 1 << 31  # the field `num_tokens` of a sample is an int32
_MAX_CHARACTERS = 500_000  # of a text, thoughts included; 100,000 tokens have about 400,000


class DoubtfulError(ExtractError):
    """A request got no usable answer. The cause may be the request or the server."""


class Completion(NamedTuple):
    """A server's answer to one request.

    Attributes:
        text: the text that the model generated; if it comes in parts, those of text, joined.
        has_thought: whether the server says that the model thought as well.
        is_cut_off: whether the model was stopped at the limit on tokens.
        num_tokens: number of generated tokens, by the server's count; 0 if the server gives no integer from 0 to
            2^31 - 1.
    """

    text: str
    has_thought: bool
    is_cut_off: bool
    num_tokens: int


def read_completion(answer: Any, quote: Quote) -> Completion:
    """Return the content of `answer`, the parsed JSON of a chat completion.

    Args:
        answer: of any type and shape, as it comes from the server.
        quote: makes short, escaped quotations for messages.

    Raises:
        DoubtfulError: it is not a chat completion, or the server broke it off.
        ExtractError: the model or the server refused to answer, the text is too long, or a part is not text.
    """
    try:
        choice = answer["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        parts = _parts(message.get("content"))
        has_thought = any(message.get(name) for name in _THOUGHTS)
        refusals = [message.get("refusal"), *(part.get("refusal") for part in parts)]
        text = "".join(part["text"] for part in parts if part["type"] in _TEXT_PARTS)
        kinds = [part["type"] for part in parts]
        usage = answer.get("usage")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DoubtfulError(f"the server's answer has no choices: {quote(answer)}") from error
    if finish in _BROKEN_OFF:
        raise DoubtfulError(f"the server broke its answer off: {finish}")
    if refusal := next(filter(None, refusals), None):
        raise ExtractError(f"the model refuses to answer: {quote(refusal)}")
    if isinstance(finish, str) and finish.startswith("content_filter"):  # of Gemini, with a reason after it
        raise ExtractError(f"the server's content filter stopped the answer: {quote(text) or 'no text'}")
    if other := [kind for kind in kinds if kind not in (*_TEXT_PARTS, *_THOUGHT_PARTS)]:
        raise ExtractError(f"the model answers with a part of the type {quote(other[0])!r}, not with text alone")
    if len(text) > _MAX_CHARACTERS:
        raise ExtractError(f"the answer has {len(text):,} characters, more than {_MAX_CHARACTERS:,}: {quote(text)}")
    has_thought |= any(kind in _THOUGHT_PARTS for kind in kinds)
    has_thought |= _count(usage, "completion_tokens_details", "reasoning_tokens") > 0
    return Completion(text, has_thought, finish in _CUT_OFF, _count(usage, "completion_tokens"))


def _parts(content: Any) -> list[dict[str, Any]]:
    """Return the parts of a message's content; most servers give one text, which becomes one part."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise TypeError(f"content is a {type(content).__name__}")
    return content


def _count(usage: Any, *names: str) -> int:
    """Return the number of tokens in a nested field of `usage`; 0 if it is missing or not a sensible number."""
    value = usage
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if type(value) is int and 0 <= value < _MAX_TOKENS else 0
