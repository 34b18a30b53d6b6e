"""Captions from generated text, without the thoughts of reasoning models and the marks of chat templates.

Thoughts come first, between an opening and a closing mark. The opening mark is missing where the chat template has
already written it, the closing mark where the model was stopped before. The marks, and models that use them:

- `<think>`, `<thinking>`, `<thought>`, `<reasoning>`, with a prefix as `<mm:think>`: Qwen3-VL, GLM-4.1V and 4.5V, Kimi
  K2.5, InternVL3.5, MiMo-VL, MiniCPM-V 4.5, Keye-VL, MiniMax-M3
- `◁think▷`: Kimi-VL-Thinking
- `[THINK]`: Magistral, Ministral 3
- `<|begin_of_thought|>`: OpenThoughts
- `<|START_THINKING|>`: Command A
- `<|channel>thought` to `<channel|>`: Gemma 4
- `<|channel|>analysis<|message|>` to `<|channel|>final<|message|>`: GPT-OSS, InternVL3.5-GPT-OSS; from servers that
  leave special tokens out, `analysis` to `assistantfinal`

A mark that belongs to the caption stays, because an image may show it: an opening mark that is not at the beginning,
and any mark in quotes or in the middle of a sentence.

Sources: the models' chat templates, and the reasoning parsers of vLLM.
"""

import re

from datamodules.errors import ExtractError
from preprocess.captioning.caption import Caption

_BEGINNING_MARK = (  # marks of the prompt's end, which some models repeat
    r"<bos>|<pad>|<\|begin_of_text\|>|<\|(?:im_start|start)\|>assistant|<\|assistant\|>"
    r"|<\|start_header_id\|>assistant<\|end_header_id\|>|<start_of_turn>model"
)
_BEGINNING = re.compile(rf"(?:<s>|{_BEGINNING_MARK})*\s*")
_BEGINNING_OF_HTML = re.compile(rf"(?:{_BEGINNING_MARK})*\s*")
_HTML = re.compile(r"</s>\s*[^\s<]")  # with text after </s>, <s> and </s> are HTML in the caption
_QUOTE = "[\"'`“”‘’]"


def _in_sentence(mark: str) -> str:
    """Return a pattern for `mark` between a word and the rest of its sentence."""
    return rf"(?<=\w )(?:{mark})(?:[.,;:)]| [a-z])"


_OPENING = re.compile(
    r"<(?:\w+:)?(?:think|thinking|thought|reasoning)>|◁think▷|\[THINK\]|<\|begin_of_thought\|>|<\|START_THINKING\|>"
    r"|<\|channel>(?:thought)?|<\|channel\|>(?:analysis|commentary)<\|message\|>"
)
_CLOSING_MARK = (
    r"</(?:\w+:)?(?:think|thinking|thought|reasoning)>|◁/think▷|\[/THINK\]|<\|end_of_thought\|>|<\|END_THINKING\|>"
    r"|<channel\|>|(?:<\|end\|>)?(?:<\|start\|>)?(?:assistant)?<\|channel\|>final<\|message\|>"
)
_CLOSING = re.compile(rf"(?!{_in_sentence(_CLOSING_MARK)}|(?<={_QUOTE})(?:{_CLOSING_MARK}){_QUOTE})(?:{_CLOSING_MARK})")
_HARMONY_AS_TEXT = re.compile(r"\Aanalysis(.*?)assistantfinal", re.DOTALL)
_HARMONY_TOKENS = ("<|channel|>", "<|message|>")  # GPT-OSS's marks consist of several tokens
_END_MARK = (
    r"<\|(?:im_end|im_start|end_?of_?(?:text|turn|sentence)|eot_id|eom_id|eot|eos|end|return|call|user|assistant"
    r"|observation|END_OF_TURN_TOKEN)\|>|<(?:end_of_utterance|end_of_turn|turn\||eos|pad)>|\[EOS\]"
    r"|<[｜|]end▁of▁sentence[｜|]>"
)
_END = re.compile(  # a mark next to a quote is quoted, perhaps with other text; `_LAST_ENDS` handles the very end
    rf"(?!{_in_sentence(_END_MARK)})(?<!{_QUOTE})(?:{_END_MARK})(?!{_QUOTE})"
)
_LAST_ENDS = re.compile(rf"(?<!\s)(?:\s*(?:{_END_MARK}))+\s*\Z")  # tries each run of white space once
_AROUND_ANSWERS = re.compile(  # marks of GLM-4.5V and OpenThoughts, and of Command A
    r"<\|(?:begin|end)_of_(?:box|solution)\|>|<\|(?:START|END)_(?:RESPONSE|TEXT)\|>"
)
_WRAPPED = re.compile(  # of GLM-4.1V and ERNIE-4.5-VL; with text after the closing tag on its line, it is XML
    r"<(answer|response)>((?:(?!</\1>).)*)(?:</\1>(?:\s*\n.*)?)?", re.DOTALL
)
_FEW_TOKENS = 8  # a model that ends at once generates at most so many; more are thoughts that a server has removed


def read_caption(generated: str, num_tokens: int, is_cut_off: bool, has_thought: bool = False) -> Caption:
    """Return the caption in a generated text.

    Args:
        generated: the text, perhaps with thoughts and marks.
        num_tokens: number of generated tokens, thoughts included; 0 if it is not known.
        is_cut_off: whether the model was stopped at `max_new_tokens`.
        has_thought: whether the model thought before it generated this text.

    Raises:
        ExtractError: there is no text, though the model generated tokens: thoughts, or white space.
    """
    thoughts, answer = _split(generated)
    text = _without_marks(answer)
    if not text and (thoughts or has_thought or is_cut_off or num_tokens > _FEW_TOKENS):
        what = "only thought, and gave no caption" if thoughts or has_thought else "gave no text"
        tokens = f" in {num_tokens:,} tokens" if num_tokens else ""
        raise ExtractError(
            f"the model {what}{tokens}. Raise --model.backend.max_new_tokens, or turn thinking off, for example by "
            "--model.backend.chat_template_kwargs '{\"enable_thinking\": false}'"
        )
    return Caption(text, "truncated" if is_cut_off else "ok" if text else "empty", num_tokens)


def opening_mark(prompt: str) -> str:
    """Return the opening mark of thoughts that `prompt` ends with; "" if it does not, and the model writes its own."""
    marks = list(_OPENING.finditer(prompt.rstrip()))
    return marks[-1][0] if marks and marks[-1].end() == len(prompt.rstrip()) else ""


def is_mark(token: str) -> bool:
    """Return whether `token` is a mark of thoughts, or a piece of one."""
    return token in _HARMONY_TOKENS or bool(_OPENING.fullmatch(token) or _CLOSING.fullmatch(token))


def _split(generated: str) -> tuple[str, str]:
    """Return (thoughts, answer) of a generated text, without white space around them."""
    beginning = _BEGINNING_OF_HTML if _HTML.search(generated) else _BEGINNING
    thoughts, answer = "", beginning.sub("", generated.strip(), count=1)
    answer = _HARMONY_AS_TEXT.sub(r"<think>\1</think>", answer)
    while True:
        opening = _OPENING.match(answer)
        start = opening.end() if opening else 0
        closing = _CLOSING.search(answer, start)
        if not opening and (not closing or _OPENING.search(answer, 0, closing.start())):
            return thoughts.strip(), answer
        end = closing.start() if closing else len(answer)
        thoughts, answer = thoughts + answer[start:end], answer[closing.end() if closing else end :].strip()


def _without_last_s(answer: str) -> str:
    """Return `answer` without the `</s>` at its end, and the white space around them."""
    end = len(answer)
    while answer.endswith("</s>", 0, end):
        end -= len("</s>")
        while end and answer[end - 1].isspace():
            end -= 1
    return answer[:end]


def _without_marks(answer: str) -> str:
    """Return `answer` up to its first end mark, without marks around it."""
    end = _END.search(answer)
    answer = _LAST_ENDS.sub("", answer[: end.start()] if end else answer).rstrip()
    if "<s>" not in answer:  # else it is HTML
        answer = _without_last_s(answer)
    answer = _AROUND_ANSWERS.sub("", answer).strip()
    wrapped = _WRAPPED.fullmatch(answer)
    return wrapped[2].strip() if wrapped else answer
