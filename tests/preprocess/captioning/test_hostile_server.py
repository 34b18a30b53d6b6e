"""A hostile caption server: redirects, endless and huge answers, repeated keys, answers of any shape."""

import gzip
import html
import json
import math
import time
from datetime import date
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
import torch

from datamodules.corpus import Item
from datamodules.errors import ConfigError, EnvironmentFailure, ExtractError
from preprocess.captioning.caption import Caption
from preprocess.captioning.served import ServedModel
from preprocess.captioning.server import Server
from preprocess.pipelines.captions import Captions
from support.chat_server import MODEL, Ask, ChatServer, Reply, describe, refused, said

KEY = 'sk/te"st<7>&+'


def backend_for(server: Any, **options: Any) -> ServedModel:
    return ServedModel(MODEL, Server(server.url, max_retries=0, **options), image_format="png")


def answer(reply: Reply, ask: Ask) -> Reply:
    return reply


def gray(backend: ServedModel, value: int) -> Any:
    transform = backend.transform(lambda item: "Describe it")()
    transform.start(Item("key", "", "folder", ("image.png",)))
    return transform(torch.full((3, 8, 12), value, dtype=torch.uint8))


def outcomes(behave: Any, count: int, **options: Any) -> Any:
    """Return the results for images of brightness 0 to `count` - 1, after a good answer to one with `count`."""
    with ChatServer(lambda ask: behave(ask) if ask.brightness < count else describe(ask)) as server:
        backend = backend_for(server, **options)
        assert type(backend.captions([gray(backend, count)])[0]) is Caption
        try:
            return backend.captions([gray(backend, value) for value in range(count)])
        finally:
            backend.close()


def stopped(backend: ServedModel) -> str:
    """Return the message with which a run stops."""
    with pytest.raises(EnvironmentFailure) as failure:
        backend.captions([gray(backend, 1)])
    return str(failure.value)


def test_a_redirect_is_not_followed_and_its_target_is_named() -> None:
    with ChatServer() as internal, ChatServer() as server:
        backend = backend_for(server)
        location = internal.url.replace("//", "//me:tops3cret@") + "/chat/completions?token=tops3cret\x1b[2J"
        for status in (301, 302, 303, 307, 308):
            reply = server.models = refused(status, "moved", Location=location)
            server.behave = partial(answer, reply)
            end = f" redirects to {internal.url}/chat/completions ({status}), where nothing is sent. If you trust "
            assert stopped(backend).startswith(
                f"{server.url}{end}that server, give its URL as --model.backend.server.url. Finished"
            )
            with pytest.raises(ConfigError) as failure:
                backend.provenance()
            assert str(failure.value).startswith(f"{server.url}/models{end}that server, give its URL as --model.back")
        assert not internal.headers
        backend.close()


def test_a_location_header_without_a_redirect_is_ignored() -> None:
    with ChatServer(lambda ask: refused(401, "no", Location="http://evil.example/")) as server:
        backend = backend_for(server)
        assert stopped(backend).startswith(f"{server.url} refuses the API key (401), ")
        backend.close()


def test_cookies_are_not_kept() -> None:
    with ChatServer(lambda ask: said("a cup", headers={"Set-Cookie": "session=1; Max-Age=99999"})) as server:
        backend = backend_for(server)
        assert (
            backend.captions([gray(backend, 1)]) == backend.captions([gray(backend, 2)]) == [Caption("a cup", "ok", 3)]
        )
        assert not any("cookie" in headers for headers in server.headers)
        backend.close()


_TARGETS = {
    "/login\x1b[2J": "HOST/login\\x1b[2J",
    "//evil.example/\u202e": "http://evil.example/",
    "http://[evil": "http://[evil",
    "http://trusted.example:x@evil.example": "http://evil.example",
    "http://evil.example\\@trusted.example/": "http://evil.example\\@trusted.example/",
    "file:///etc/passwd": "file:///etc/passwd",
    "x" * 10_000: "HOST/v1/chat/" + "x" * 100,
    "/tops3cret/next": "HOST/***/next",
}


def test_any_target_of_a_redirect_is_one_escaped_line_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_OWN_KEY", "tops3cret")
    with ChatServer() as server:
        backend = backend_for(server, api_key_env="MY_OWN_KEY")
        for location, target in _TARGETS.items():
            reply = Reply(b"", 302, {"Location": location.encode().decode("latin-1")})
            server.behave = partial(answer, reply)
            message = stopped(backend)
            assert f" redirects to {target.replace('HOST', server.url.removesuffix('/v1'))}" in message
            assert message.isprintable()
            assert len(message) < 500
        backend.close()


_ENDLESS = {
    "a byte now and then": Reply(b" ", pause_seconds=0.02),
    "headers that never end": Reply(b"HTTP/1.1 200 OK\r\nX: ", is_raw=True, pause_seconds=0.02),
    "interim responses": Reply(b"HTTP/1.1 102 Processing\r\n\r\n", is_raw=True, pause_seconds=0.02),
    "a stream of events": Reply(b"data: {}\n\n", headers={"Content-Type": "text/event-stream"}, pause_seconds=0.02),
}


def test_an_answer_that_never_ends_fails_after_the_timeout() -> None:
    began = time.monotonic()
    reasons = outcomes(lambda ask: list(_ENDLESS.values())[ask.brightness], len(_ENDLESS), request_timeout_seconds=0.3)
    reason = (
        "the server hangs up, or takes more than --model.backend.server.request_timeout_seconds "
        "(no whole answer in 0.3 s)"
    )
    assert dict(zip(_ENDLESS, map(str, reasons), strict=True)) == dict.fromkeys(_ENDLESS, reason)
    assert time.monotonic() - began < 20


_BOMB = gzip.compress(bytes(64 << 20))
_LARGE = {
    "endless": Reply(b" " * (1 << 20), pause_seconds=0.0),
    "compressed": Reply(_BOMB, headers={"Content-Encoding": "gzip"}),
    "an error": Reply(_BOMB, 500, headers={"Content-Encoding": "gzip"}),
}


def test_an_answer_of_more_than_16_mb_fails() -> None:
    reasons = outcomes(lambda ask: list(_LARGE.values())[ask.brightness], len(_LARGE), request_timeout_seconds=60.0)
    assert list(map(str, reasons)) == ["the server's answer is larger than 16 MB"] * len(_LARGE)


def test_an_answer_of_too_many_lists_and_objects_is_not_parsed() -> None:
    replies = [Reply(part * 1_000_001) for part in (b"[],", b"{},")]
    reasons = outcomes(lambda ask: replies[ask.brightness], len(replies), request_timeout_seconds=60.0)
    assert list(map(str, reasons)) == ["the server's answer has more than 1,000,000 lists and objects"] * len(replies)


def test_a_reason_does_not_hold_the_answer() -> None:
    results = outcomes(lambda ask: (said("x" * 500_001), Reply(b'{"choices": []}'))[ask.brightness], 2)
    assert [(type(result), result.__traceback__, result.__cause__) for result in results] == [
        (ExtractError, None, None)
    ] * 2


def test_a_compressed_answer_is_read_unless_it_is_compressed_twice() -> None:
    body = said("a cup").body
    once = Reply(gzip.compress(body), headers={"Content-Encoding": "gzip"})
    twice = Reply(gzip.compress(gzip.compress(body)), headers={"Content-Encoding": "gzip, gzip"})
    caption, failure = outcomes(lambda ask: (once, twice)[ask.brightness], 2)
    assert caption == Caption("a cup", "ok", 3)
    assert "the answer is compressed more than once" in str(failure)


def test_a_list_of_models_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.captioning.chat._QUICK_SECONDS", 0.3)
    with ChatServer() as server:
        backend = backend_for(server)
        for reply, reason in (
            (Reply(b" ", pause_seconds=0.02), r"^no server answers at .* \(no whole answer in 0\.3 s\)"),
            (Reply(b'{"data": [{"id": 5}]}'), "does not answer as an OpenAI-compatible server does"),
            (Reply(b'{"data": ' + b"[" * 100_000), "does not answer as an OpenAI-compatible server does"),
            (
                Reply(json.dumps({"data": [{"id": "\x1b[2J" + "x" * 999}] * 999}).encode()),
                r"serves \\x1b\[2Jx{190,193}$",
            ),
        ):
            server.models = reply
            with pytest.raises(ConfigError, match=reason):
                backend.provenance()
        backend.close()


_ECHOES = {
    "as it is": f"bad key {KEY}",
    "a header": f"{{'authorization': 'Bearer {KEY}'}}",
    "in JSON": json.dumps({"key": KEY}),
    "in JSON in JSON": json.dumps(json.dumps(KEY)),
    "in JSON, all escaped": "".join(f"\\u{ord(char):04X}" for char in KEY),
    "in a URL": f"http://host/?key={quote(KEY, safe='')}",
    "in lower case": quote(KEY, safe="").lower(),
    "in HTML": html.escape(KEY),
    "in HTML, as numbers": "".join(f"&#{ord(char)};" for char in KEY),
    "in Python": repr(KEY),
    "at the end of what is shown": "x" * 190 + KEY,
}


def _echoes(text: str) -> list[Reply]:
    return [
        refused(400, text),
        Reply(text.encode(), 500, {"Content-Type": "text/plain"}),
        Reply(json.dumps([text]).encode()),
        Reply(json.dumps({text: text}).encode(), 422),
        said(None, message={"refusal": text}),
        said([{"type": text}]),
        said(text, "content_filter"),
        Reply(f"{text}\r\n\r\n".encode(), is_raw=True),  # which the HTTP client quotes in its error
    ]


def test_a_key_that_the_server_repeats_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_OWN_KEY", KEY)
    replies = [reply for text in _ECHOES.values() for reply in _echoes(text)]
    reasons = map(str, outcomes(lambda ask: replies[ask.brightness], len(replies), api_key_env="MY_OWN_KEY"))
    for reason in reasons:
        assert "***" in reason or "x" * 100 in reason, reason
        assert not any(part in reason for part in ("sk/", "st<7", "st&lt;7", "sk%2F", "sk%2f", "u0073", "#115")), reason


@pytest.mark.parametrize("key", ["tops3cret\n", " tops3cret", "tops3cr\u00e9t", "tops3cret\x7f"])
def test_a_key_that_http_cannot_send_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_OWN_KEY", key)
    with pytest.raises(ConfigError, match=r"^the environment variable MY_OWN_KEY has a ") as failure:
        Server(api_key_env="MY_OWN_KEY").api_key()
    assert "tops3cr" not in str(failure.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("api_key_env", "sk-tops3cret"),
        ("url", "http://me:tops3cret@host:port/v1"),
        ("url", "http://me:tops3cret@[bad"),
        ("url", "http://me:12/tops3cret@host"),
        ("url", "http://tops3cret#@host"),
        ("url", "ftp://host/v1?key=tops3cret"),
        ("url", "http://host/v1#tops3cret"),
    ],
)
def test_a_key_given_in_a_wrong_place_is_not_shown(option: str, value: str) -> None:
    with pytest.raises(ConfigError) as failure:
        Server(**{option: value})  # type: ignore[arg-type]
    assert "tops3cret" not in str(failure.value)


@pytest.mark.parametrize("url", ["http://ho\nst/v1", "http://host/v1\x1b[2J", "http://host:0/v1", "//host/v1"])
def test_a_url_that_the_client_cannot_use_is_one_escaped_line(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^--model\.backend\.server\.url ") as failure:
        Server(url)
    assert str(failure.value).isprintable()


_COUNTS = ["12", -1, 10**30, math.nan, math.inf, True, None, 3.5, [], {}, 1 << 31]


def test_a_count_of_tokens_that_is_not_a_sensible_integer_is_0() -> None:
    replies = [said("a cup", usage={"completion_tokens": count}) for count in _COUNTS]
    replies += [said("a cup", usage={"completion_tokens": 0, "completion_tokens_details": each}) for each in _COUNTS]
    details = [{"completion_tokens": 0, "completion_tokens_details": {"reasoning_tokens": each}} for each in _COUNTS]
    replies += [said("a cup", usage=each) for each in details]
    replies += [Reply(json.dumps({**json.loads(said("a cup").body), "usage": each}).encode()) for each in _COUNTS]
    captions = outcomes(lambda ask: replies[ask.brightness], len(replies))
    assert captions == [Caption("a cup", "ok", 0)] * len(replies)


def _with(**fields: Any) -> Reply:
    return Reply(json.dumps({**json.loads(said("a cup").body), **fields}).encode())


_NESTED = json.loads("[" * 900 + "]" * 900)
_NO_ANSWERS = {
    "content is an object": said({}),
    "content is a number": said(0),
    "content is false": said(False),
    "content is an object with text": said({"type": "text", "text": "a cup"}),
    "content is a list of numbers": said([5]),
    "a part without its type": said([{"text": "a cup"}]),
    "a part without its text": said([{"type": "text"}]),
    "a part whose text is a list": said([{"type": "text", "text": ["a"]}]),
    "content is nested": said(_NESTED),
    "no choices": _with(choices=[]),
    "choices are an object": _with(choices={"0": 5}),
    "choices are text": _with(choices="abc"),
    "choices are nested": _with(choices=_NESTED),
    "the message is null": _with(choices=[{"message": None}]),
    "the message is a list": _with(choices=[{"message": [1]}]),
    "null": Reply(b"null"),
    "nothing": Reply(b""),
    "nested too deeply": Reply(b"[" * 100_000),
    "an integer of 5,000 digits": Reply(b"9" * 5000),
    "not UTF-8": Reply(b'"\xff\xfe"'),
    "an unknown charset": Reply(b"a cup", headers={"Content-Type": "text/plain; charset=zlib_codec"}),
    "no HTTP": Reply(b"\x1b[2J\r\n\r\n", is_raw=True),
}


def test_an_answer_of_a_wrong_shape_is_one_short_escaped_reason() -> None:
    results = outcomes(lambda ask: list(_NO_ANSWERS.values())[ask.brightness], len(_NO_ANSWERS))
    for name, result in zip(_NO_ANSWERS, results, strict=True):
        assert isinstance(result, ExtractError), name
        assert str(result).startswith("the server"), name
        assert str(result).isprintable(), name
        assert len(str(result)) < 400, name


_REASONS = {
    "a refusal": said(None, message={"refusal": "\x1b[2J\u202e\ud800\0" + "x" * 999}),
    "a nested refusal": said(None, message={"refusal": _NESTED}),
    "a nested finish reason": said("a cup", finish=_NESTED),
    "an error": refused(400, "\x1b[2J\u202e\ud800\0" + "x" * 999),
    "a nested error": Reply(json.dumps({"error": _NESTED}).encode(), 422),
    "a type": said([{"type": "\x1b[2J\u202e\ud800\0" + "x" * 999}]),
    "a huge text": said("x" * 500_001),
}


def test_quotations_of_a_server_are_short_and_escaped_in_a_reason() -> None:
    results = outcomes(lambda ask: list(_REASONS.values())[ask.brightness], len(_REASONS))
    for name, result in zip(_REASONS, results, strict=True):
        if name == "a nested finish reason":
            assert result == Caption("a cup", "ok", 3)
            continue
        assert isinstance(result, ExtractError)
        assert str(result).isprintable(), name
        assert len(str(result)) < 400, name


def test_a_caption_keeps_its_characters_whatever_they_are() -> None:
    text = "a\0b\x1b[2J\u202e\ud800c"
    assert outcomes(lambda ask: said(text), 1) == [Caption(text, "ok", 3)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"chat_template_kwargs": {"top": [math.nan]}},
            r"^--model\.backend\.chat_template_kwargs \{'top': \[nan\]\} cannot be",
        ),
        (
            {"chat_template_kwargs": {"top": math.inf}},
            r"^--model\.backend\.chat_template_kwargs .* cannot be sent as JSON: ",
        ),
        (
            {"chat_template_kwargs": {"day": date(2026, 1, 1)}},
            r"^--model\.backend\.chat_template_kwargs .* cannot be sent as",
        ),
        ({"system_prompt": "a\udcff"}, r"^--model\.backend\.system_prompt 'a\\udcff' cannot be sent as JSON: "),
        ({"temperature": math.nan}, r"^temperature = nan must be 0 or more, and finite"),
        ({"temperature": math.inf}, r"^temperature = inf must be"),
        ({"temperature": -1.0}, r"^temperature = -1\.0 must be"),
    ],
)
def test_an_option_that_no_request_can_hold_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        ServedModel(MODEL, **options)


def test_a_prompt_that_no_request_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--model\.prompt 'a\\udcff' cannot be sent as JSON: "):
        Captions(ServedModel(MODEL), "a\udcff")
