"""Captions by a real HTTP server on this machine, which answers, refuses, fails and hangs as servers do."""

import gc
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.corpus import Item
from datamodules.errors import ConfigError, EnvironmentFailure, ExtractError
from datamodules.network import PROXY_VARIABLES
from preprocess.captioning.caption import Caption
from preprocess.captioning.served import ServedModel
from preprocess.captioning.server import Server
from preprocess.captioning.size_limit import SizeLimit
from preprocess.job.fingerprint import described
from support.chat_server import MODEL, Ask, ChatServer, Reply, describe, refused, said


def ask_for(item: Item) -> str:
    """Return the prompt for an item."""
    if not item.meta.get("name"):
        raise ExtractError("no name")
    return f"Describe the {item.meta['name']}"


def backend_for(server: ChatServer | str, options: dict[str, Any] | None = None, **connection: Any) -> ServedModel:
    """Return a backend for `server`, or its URL, with these options of `ServedModel` and of `Server`."""
    url = server if isinstance(server, str) else server.url
    return ServedModel(MODEL, Server(**{"url": url, **connection}), **{"image_format": "png", **(options or {})})


def prepare(backend: ServedModel, frame: Tensor, name: str = "cup") -> Any:
    transform = pickle.loads(pickle.dumps(backend.transform(ask_for)))()  # as a worker gets it
    transform.start(Item("key", "", "folder", ("image.png",), meta={"name": name}))
    return transform(frame)


def gray(value: int, height: int = 8, width: int = 12) -> Tensor:
    return torch.full((3, height, width), value, dtype=torch.uint8)


def grays(backend: ServedModel, *values: Any) -> list[Any]:
    return [prepare(backend, gray(value)) for value in values]


def texts(captions: Any) -> list[str]:
    return [caption.text if isinstance(caption, Caption) else str(caption) for caption in captions]


def test_captions_come_in_order_though_answers_do_not() -> None:
    def later_first(ask: Ask) -> Reply:
        return said(str(ask.brightness), seconds=0.02 * (8 - ask.brightness))

    with ChatServer(later_first) as server:
        backend = backend_for(server)
        assert texts(backend.captions(grays(backend, *range(8)))) == [str(value) for value in range(8)]
        backend.close()


def test_many_requests_are_in_flight_but_no_more_than_allowed() -> None:
    with ChatServer(lambda ask: said("x", seconds=0.2)) as server:  # so that requests meet on busy cores
        backend = backend_for(server, max_concurrency=4)
        backend.captions(grays(backend, *range(20)))
        assert server.peak == 4
        backend.captions(grays(backend, *range(20)))
        assert server.connections <= 4  # which batches share
        backend.close()


def test_the_server_gets_the_image_the_prompt_and_the_options() -> None:
    frame = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 9, 7), dtype=np.uint8))
    with ChatServer() as server:
        options = {"system_prompt": "Be brief.", "chat_template_kwargs": {"enable_thinking": False}}
        backend = backend_for(server, {**options, "max_new_tokens": 17, "temperature": 0.5})
        prepared = prepare(backend, frame, "mug")
        assert prepared[0] == "Describe the mug"
        assert prepared[2:] == (0, 63)
        backend.captions([prepared])
        (ask,) = server.asks
        assert np.array_equal(ask.image, frame.permute(1, 2, 0).numpy())
        assert ask.body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert ask.body["messages"][1]["content"][1] == {"type": "text", "text": "Describe the mug"}
        request = {name: ask.body[name] for name in ("model", "max_tokens", "temperature", "seed")}
        assert request == {"model": MODEL, "max_tokens": 17, "temperature": 0.5, "seed": 0}
        assert ask.body["chat_template_kwargs"] == {"enable_thinking": False}
        backend.close()


def test_options_that_are_not_set_are_not_sent() -> None:
    with ChatServer() as server:
        backend = backend_for(server)
        backend.captions(grays(backend, 1))
        assert [message["role"] for message in server.asks[0].body["messages"]] == ["user"]
        assert server.asks[0].body.keys() == {"model", "messages", "max_tokens", "temperature", "seed"}
        backend.close()


@pytest.mark.parametrize(
    ("limit", "size"),
    [
        (SizeLimit(), (40, 100)),
        (SizeLimit(max_pixels=1000), (20, 50)),
        (SizeLimit(longest_edge=25), (10, 25)),
        (SizeLimit(max_pixels=1000, longest_edge=25), (10, 25)),
        (SizeLimit(max_pixels=10**6, longest_edge=500), (40, 100)),
        (SizeLimit(longest_edge=1), (1, 1)),
    ],
)
def test_images_are_made_smaller_never_larger(limit: SizeLimit, size: tuple[int, int]) -> None:
    with ChatServer() as server:
        backend = backend_for(server, limit._asdict())
        prepared = prepare(backend, gray(100, 40, 100))
        backend.captions([prepared])
        assert server.asks[0].image.shape == (*size, 3)
        assert np.array_equal(np.unique(server.asks[0].image), [100])
        assert prepared.num_pixels == size[0] * size[1]
        backend.close()


def test_jpegs_are_sent_as_such_and_differ_little() -> None:
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(3, 64, 64)
    with ChatServer() as server:
        backend = backend_for(server, {"image_format": "jpeg"})
        backend.captions([prepare(backend, ramp)])
        (ask,) = server.asks
        assert ask.url.startswith("data:image/jpeg;base64,/9j/")
        assert np.abs(ask.image.astype(int) - ramp.permute(1, 2, 0).numpy()).max() <= 3
        backend.close()


def test_an_image_that_is_too_long_for_a_jpeg_fails_its_item_and_says_what_to_do() -> None:
    long = gray(100, 66_000, 4)
    reason = (
        r"^4x66000 px cannot be sent as JPEG, .* at most 65,500 px\. "
        r"Set --model\.backend\.longest_edge, or --model\.backend\.image_format png$"
    )
    with ChatServer() as server:
        with pytest.raises(ExtractError, match=reason):
            prepare(backend_for(server, {"image_format": "jpeg"}), long)
        for backend in (backend_for(server), backend_for(server, {"longest_edge": 65_500})):
            backend.captions([prepare(backend, long)])
            backend.close()
        assert [ask.image.shape for ask in server.asks] == [(66_000, 4, 3), (65_500, 3, 3)]


def test_a_prompt_that_cannot_be_filled_fails_its_item() -> None:
    with ChatServer() as server:
        backend = backend_for(server)
        with pytest.raises(ExtractError, match="no name"):
            prepare(backend, gray(0), name="")
        backend.close()


def test_captions_have_their_status_and_number_of_tokens() -> None:
    answers = {
        1: said(" a cup \n"),
        2: said("a cup of", "length", 32),
        3: said(" "),
        4: said(None, num_tokens=0),
        5: said("a cup of", "model_length", 32),  # Mistral's
    }
    with ChatServer(lambda ask: answers[ask.brightness]) as server:
        backend = backend_for(server)
        assert backend.captions(grays(backend, 1, 2, 3, 4, 5)) == [
            Caption("a cup", "ok", 3),
            Caption("a cup of", "truncated", 32),
            Caption("", "empty", 3),
            Caption("", "empty", 0),
            Caption("a cup of", "truncated", 32),
        ]
        backend.close()


_REASONING_TOKENS = {"completion_tokens_details": {"reasoning_tokens": 128}}


def test_a_model_that_only_thinks_fails_its_images_and_says_what_to_do() -> None:
    replies = [
        said("", num_tokens=128, message={"reasoning_content": "Let me see."}),
        said(None, "length", 128, message={"reasoning": "Let me see."}),
        said("<think>Let me see", "length", 128),
        said("Let me see.</think>", num_tokens=128),
        said("", "length", 128, usage=_REASONING_TOKENS),  # OpenAI's models hide their thoughts
        said([{"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}]}], num_tokens=128),
    ]
    with ChatServer(lambda ask: replies[ask.brightness]) as server:
        backend = backend_for(server)
        for failure in backend.captions(grays(backend, *range(len(replies)))):
            assert type(failure) is ExtractError
            assert str(failure).startswith(
                "the model only thought, and gave no caption in 128 tokens. Raise --model.backend.max"
            )
        backend.close()


def test_thoughts_marks_and_thinking_parts_are_removed() -> None:
    replies = [
        said("a cup", message={"reasoning_content": "Let me see."}),
        said("<think>Let me see.</think>\n\na cup<|im_end|>"),
        said("Let me see.\n</think>\n\na cup"),
        said("a cup", usage=_REASONING_TOKENS),
        said("a cup", message={"reasoning": None, "reasoning_content": None, "refusal": None}),
        said([{"type": "text", "text": "a "}, {"type": "text", "text": "cup"}]),
        said([{"type": "thinking", "thinking": "Let me see."}, {"type": "text", "text": "a cup"}]),
    ]
    with ChatServer(lambda ask: replies[ask.brightness]) as server:
        backend = backend_for(server)
        captions = backend.captions(grays(backend, *range(len(replies))))
        assert captions == [Caption("a cup", "ok", 3)] * len(replies)
        backend.close()


def test_an_answer_without_a_caption_fails_its_image_alone() -> None:
    replies = {
        "the model refuses to answer: No faces.": said(None, message={"refusal": "No faces."}),
        "the model refuses to answer: No.": said([{"type": "refusal", "refusal": "No."}]),
        "the server's content filter stopped the answer: A pers": said("A pers", "content_filter"),
        "the server's content filter stopped the answer: no text": said("", "content_filter: SAFETY"),
        "the model answers with a part of the type 'image_url', not with text alone": said(
            [{"type": "text", "text": "Here:"}, {"type": "image_url", "image_url": {}}]
        ),
    }
    with ChatServer(lambda ask: list(replies.values())[ask.brightness]) as server:
        backend = backend_for(server)
        failures = backend.captions(grays(backend, *range(len(replies))))
        assert [(type(failure), str(failure)) for failure in failures] == [(ExtractError, each) for each in replies]
        assert len(server.asks) == len(replies)  # the server works: no gray image is sent
        backend.close()


_OTHER_LIMIT = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, _OTHER_LIMIT),
        (400, "max_tokens is deprecated: use `max_completion_tokens`"),
        (400, "Unrecognized request argument supplied: max_tokens"),
        (422, "[{'type': 'extra_forbidden', 'loc': ['body', 'max_tokens'], 'msg': 'Extra inputs are not permitted'}]"),
    ],
)
def test_max_completion_tokens_is_sent_after_the_first_refusal_of_max_tokens(status: int, message: str) -> None:
    with ChatServer(lambda ask: refused(status, message) if "max_tokens" in ask.body else describe(ask)) as server:
        backend = backend_for(server, {"max_new_tokens": 17})
        assert texts(backend.captions(grays(backend, 0))) == ["0: Describe the cup"]
        assert texts(backend.captions(grays(backend, 1, 2))) == ["1: Describe the cup", "2: Describe the cup"]
        limits = [(ask.body.get("max_tokens"), ask.body.get("max_completion_tokens")) for ask in server.asks]
        assert limits == [(17, None), (None, 17), (None, 17), (None, 17)]
        backend.close()


def test_concurrent_requests_that_are_refused_for_max_tokens_all_get_captions() -> None:
    with ChatServer(lambda ask: refused(400, _OTHER_LIMIT) if "max_tokens" in ask.body else describe(ask)) as server:
        backend = backend_for(server, max_concurrency=8)
        assert texts(backend.captions(grays(backend, *range(24)))) == [
            f"{each}: Describe the cup" for each in range(24)
        ]
        assert sum("max_completion_tokens" in ask.body for ask in server.asks) == 24
        backend.close()


def test_max_tokens_is_kept_if_max_completion_tokens_is_refused_as_well() -> None:
    bad = "prompt: extra text not allowed before max_tokens"
    with ChatServer(lambda ask: refused(400, bad) if ask.brightness == 9 else describe(ask)) as server:
        backend = backend_for(server)
        assert texts(backend.captions(grays(backend, 9))) == [f"the server refuses the request (400): {bad}"]
        assert texts(backend.captions(grays(backend, 1))) == ["1: Describe the cup"]
        assert "max_tokens" in server.asks[-1].body
        backend.close()


@pytest.mark.parametrize(
    "message", [_OTHER_LIMIT, "'max_tokens' or 'max_completion_tokens' is too large: 8192.", "max_tokens is too large"]
)
def test_a_token_limit_that_the_server_refuses_under_either_name_fails_the_image(message: str) -> None:
    with ChatServer(lambda ask: refused(400, message)) as server:
        backend = backend_for(server)
        assert texts(backend.captions(grays(backend, 0))) == [f"the server refuses the request (400): {message}"]
        assert len(server.asks) == (2 if message == _OTHER_LIMIT else 1)
        backend.close()


@pytest.mark.parametrize(
    "failure",
    [
        refused(500, "oops"),
        refused(503, "loading"),
        refused(429, "slow down"),
        Reply(b"cut", drops=True),
        said("late", seconds=0.6),
    ],
    ids=["500", "503", "429", "drops", "hangs"],
)
def test_a_request_that_fails_once_is_repeated(failure: Reply) -> None:
    with ChatServer(lambda ask: failure if ask.nth == 0 and ask.brightness == 1 else describe(ask)) as server:
        backend = backend_for(server, request_timeout_seconds=0.4)
        assert texts(backend.captions(grays(backend, 0, 1, 2))) == [f"{value}: Describe the cup" for value in range(3)]
        assert len(server.asks) == 4
        backend.close()


def test_a_request_is_repeated_after_the_time_in_retry_after() -> None:
    came = []

    def limit(ask: Ask) -> Reply:
        came.append(time.monotonic())
        return refused(429, "slow down", Retry_After="1") if ask.nth == 0 else describe(ask)

    with ChatServer(limit) as server:
        backend = backend_for(server)
        assert texts(backend.captions(grays(backend, 7))) == ["7: Describe the cup"]
        assert came[1] - came[0] >= 1.0  # not the half second of the client's own
        backend.close()


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_image_that_the_server_refuses_fails_alone(status: int) -> None:
    with ChatServer(lambda ask: refused(status, "image too large") if ask.brightness == 1 else describe(ask)) as server:
        backend = backend_for(server)
        captions = backend.captions(grays(backend, 0, 1, 2))
        assert texts(captions)[::2] == ["0: Describe the cup", "2: Describe the cup"]
        assert type(captions[1]) is ExtractError
        assert str(captions[1]) == f"the server refuses the request ({status}): image too large"
        assert len(server.asks) == 3  # asking again would change nothing
        backend.close()


_UNUSABLE = {
    "500": (refused(500, "boom"), r"the server fails to answer \(500\): boom"),
    "503": (refused(503, "loading"), r"the server fails to answer \(503\): loading"),
    "408": (refused(408, "slow"), r"the server fails to answer \(408\): slow"),
    "drops": (
        Reply(b"01234567", drops=True),
        r"the server hangs up, or takes more than --model.backend.server.request_timeout_seconds \(peer closed",
    ),
    "hangs": (
        said("late", seconds=0.5),
        r"the server hangs up, or takes more than --model.backend.server.request_timeout_seconds \(no whole answer",
    ),
    "no JSON": (Reply(b"<html>login"), "the server's answer is not JSON"),
    "text": (Reply(b"login", headers={"Content-Type": "text/html"}), "the server's answer has no choices: login"),
    "a list": (Reply(b"[]"), r"has no choices: \[\]"),
    "no choices": (Reply(b'{"choices": []}'), "has no choices"),
    "an error": (Reply(b'{"error": "no image"}'), "has no choices: {'error': 'no image'}"),
    "no text": (said(["part"]), "has no choices"),
    "broken off": (said("a cu", "abort"), "the server broke its answer off: abort"),
}


@pytest.mark.parametrize(("reply", "reason"), _UNUSABLE.values(), ids=_UNUSABLE)
def test_an_item_without_a_usable_answer_fails_if_others_are_still_answered(reply: Reply, reason: str) -> None:
    with ChatServer(lambda ask: reply if ask.brightness == 1 else describe(ask)) as server:
        backend = backend_for(server, max_retries=0, request_timeout_seconds=0.3)
        captions = backend.captions(grays(backend, 0, 1))
        assert texts(captions)[:1] == ["0: Describe the cup"]
        for caption in (
            captions[1],
            backend.captions(grays(backend, 1))[0],
        ):  # an answer in an earlier batch counts too
            assert isinstance(caption, ExtractError)
            assert re.search(reason, str(caption))
        backend.close()


@pytest.mark.parametrize(("reply", "reason"), _UNUSABLE.values(), ids=_UNUSABLE)
def test_a_server_that_gives_no_usable_answer_any_more_stops_the_run(reply: Reply, reason: str) -> None:
    with ChatServer(lambda ask: reply if ask.brightness or ask.nth else describe(ask)) as server:
        backend = backend_for(server, max_retries=0, request_timeout_seconds=0.3)
        with pytest.raises(EnvironmentFailure, match=rf"something is wrong with http://127.*{reason}.*is safe"):
            backend.captions(grays(backend, 0, 1))
        backend.close()


def test_a_gray_image_tests_the_server_if_the_first_image_of_all_fails() -> None:
    with ChatServer(lambda ask: refused(500, "boom") if ask.brightness == 1 else describe(ask)) as server:
        backend = backend_for(server, max_retries=0)
        assert texts(backend.captions(grays(backend, 1))) == ["the server fails to answer (500): boom"]
        assert [(ask.brightness, ask.prompt) for ask in server.asks] == [
            (1, "Describe the cup"), (128, "Describe this image.")
        ]  # fmt: skip
        assert texts(backend.captions(grays(backend, 2, 1, 3)))[::2] == ["2: Describe the cup", "3: Describe the cup"]
        backend.close()


def test_a_server_that_hangs_is_tested_by_one_request() -> None:
    with ChatServer(lambda ask: said("late", seconds=1.0)) as server:
        backend = backend_for(server, max_retries=1, request_timeout_seconds=0.2)
        with pytest.raises(EnvironmentFailure, match=r"something is wrong with .*: the server hangs up, or takes more"):
            backend.captions(grays(backend, 1))
        assert [ask.brightness for ask in server.asks] == [1, 1, 128]
        backend.close()


@pytest.mark.parametrize(
    ("reply", "match"),
    [
        (
            refused(401, "bad key tops3cret"),
            r"v1 refuses the API key \(401\).*api_key_env names\. Finished work is safe",
        ),
        (refused(403, "bad key tops3cret"), r"v1 refuses the API key \(403\)"),
        (refused(404, "no model"), r"v1 answers 404: no model.*is safe"),
        (refused(429, "quota"), r"v1 answers 429: quota"),
    ],
    ids=["401", "403", "404", "429"],
)
def test_a_server_that_cannot_answer_any_request_stops_the_run(
    reply: Reply, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "tops3cret")
    with ChatServer(lambda ask: reply if ask.brightness == 1 else describe(ask)) as server:
        backend = backend_for(server, max_retries=0, api_key_env="KEY")
        with pytest.raises(EnvironmentFailure, match=match) as failure:
            backend.captions(grays(backend, 0, 1, 2))
        assert "tops3cret" not in str(failure.value)
        server.behave = describe
        assert texts(backend.captions(grays(backend, 1))) == ["1: Describe the cup"]  # none of it lingers
        backend.close()


def test_a_server_that_has_gone_stops_the_run() -> None:
    with ChatServer() as server:
        backend = backend_for(server, max_retries=0)
        backend.captions(grays(backend, 0))
    with pytest.raises(EnvironmentFailure, match=r"something is wrong with http://127.*: the server hangs up, or"):
        backend.captions(grays(backend, 0))
    backend.close()


def test_no_more_requests_are_made_when_the_server_is_gone() -> None:
    with ChatServer(lambda ask: refused(404, "gone")) as server:
        backend = backend_for(server, max_concurrency=2)
        with pytest.raises(EnvironmentFailure, match="404"):
            backend.captions(grays(backend, *range(50)))
        assert len(server.asks) <= 4
        backend.close()


@pytest.fixture
def sigint() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, also where tests run in the background, whose shells ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_does_not_wait_for_answers(sigint: None) -> None:
    once = threading.Lock()

    def interrupt(ask: Ask) -> Reply:
        if len(server.asks) == 2 and once.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)
        return said("late", seconds=0.0 if ask.nth else 30.0)

    with ChatServer(interrupt) as server:
        backend = backend_for(server)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            backend.captions(grays(backend, 0, 1))
        assert time.monotonic() - began < 10
        assert texts(backend.captions(grays(backend, 0, 1))) == ["late", "late"]
        backend.close()


def test_a_backend_that_is_dropped_closes_its_connections() -> None:
    with ChatServer() as server:
        backend = backend_for(server)
        backend.captions(grays(backend, 0))
        loop = backend._loop
        del backend
        assert loop.is_closed()


def test_a_backend_that_is_collected_while_another_waits_for_answers_is_closed_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ChatServer() as server:
        first, second = backend_for(server), backend_for(server)
        first.captions(grays(first, 0))
        vars(first)["itself"], loop = first, first._loop  # a cycle, as Lightning's modules have them
        ask = second._ask

        async def collect(prepared: Any) -> Any:
            gc.collect()
            return await ask(prepared)

        monkeypatch.setattr(second, "_ask", collect)
        inputs = grays(second, 1)
        del first
        assert texts(second.captions(inputs)) == ["1: Describe the cup"]
        assert not loop.is_closed()
        assert texts(second.captions(inputs)) == ["1: Describe the cup"]
        assert loop.is_closed()
        second.close()


def test_the_fingerprint_has_the_options_that_change_captions_and_not_the_server() -> None:
    backend = backend_for("http://127.0.0.1:9/v1", {"max_new_tokens": 17}, max_retries=1)
    assert described(backend) == {
        "class_path": "preprocess.captioning.served.ServedModel",
        "init_args": {
            "model": MODEL,
            "system_prompt": None,
            "chat_template_kwargs": None,
            "max_new_tokens": 17,
            "temperature": 0.0,
            "max_pixels": None,
            "longest_edge": None,
            "image_format": "png",
        },
    }
    backend.close()


def test_what_the_server_serves_belongs_to_the_fingerprint() -> None:
    with ChatServer() as server:
        backend = backend_for(server)
        assert backend.provenance() == {"served_model": "org/Tiny-VLM"}
        server.models = Reply(b'{"data": [{"id": "tiny-vlm"}]}')  # without vLLM's `root`
        assert backend.provenance()["served_model"] == "tiny-vlm"
        backend.close()


def test_a_url_without_a_server_is_an_error_before_the_run() -> None:
    with ChatServer() as server:
        url = server.url
    backend = backend_for(url)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=rf"no server answers at {url} \(.*\)\. Start it, or give its URL by --model"):
        backend.provenance()
    assert time.monotonic() - began < 3  # which trying again would take
    backend.close()


@pytest.mark.parametrize(
    ("reply", "match"),
    [
        (
            Reply(b'{"data": [{"id": "a"}, {"id": "b"}]}'),
            r"--model.backend.model tiny-vlm: http://127.*/v1 serves a, b$",
        ),
        (Reply(b'{"data": []}'), r"serves nothing$"),
        (Reply(b"<html>", headers={"Content-Type": "text/html"}), r"models does not answer as an OpenAI-compatible"),
        (Reply(b"<html>"), r"models does not answer as an OpenAI-compatible server does\. Is the path '/v1' right\?"),
        (Reply(b"[]"), r"models does not answer as an OpenAI-compatible"),
        (Reply(b'{"data": [{}]}'), r"models does not answer as an OpenAI-compatible"),
        (refused(404, "Not Found"), r"v1/models answers 404: Not Found"),
        (refused(401, "no"), r"v1/models refuses the API key \(401\), .* --model.backend.server.api_key_env names$"),
        (refused(503, "loading"), r"v1/models answers 503: loading"),
    ],
)
def test_a_server_that_cannot_serve_the_model_is_an_error_before_the_run(reply: Reply, match: str) -> None:
    with ChatServer() as server:
        backend = backend_for(server)
        server.models = reply
        with pytest.raises(ConfigError, match=match):
            backend.provenance()
        backend.close()


def test_the_api_key_is_that_of_the_named_variable_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "tops3cret")
    monkeypatch.setenv("OPENAI_API_KEY", "anothers")
    with ChatServer() as server:
        with_key, without = backend_for(server, api_key_env="MY_KEY"), backend_for(server)
        with_key.captions(grays(with_key, 0))
        without.captions(grays(without, 0))
        assert [ask.headers["authorization"] for ask in server.asks] == ["Bearer tops3cret", "Bearer none"]
        with_key.close()
        without.close()


def test_openais_own_environment_variables_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {
        "OPENAI_ORG_ID": "org-s3cret",
        "OPENAI_PROJECT_ID": "proj-s3cret",
        "OPENAI_ADMIN_KEY": "admin-s3cret",
        "OPENAI_CUSTOM_HEADERS": "X-Mine: my-s3cret\nAuthorization: Bearer s3cret",
        "OPENAI_BASE_URL": "http://s3cret.invalid/v1",
    }
    for name, value in held.items():
        monkeypatch.setenv(name, value)
    with ChatServer() as server:
        backend = backend_for(server)
        backend.provenance()
        backend.captions(grays(backend, 0))
        assert len(server.headers) == 2
        for headers in server.headers:
            assert "s3cret" not in str(headers)
            assert headers["authorization"] == "Bearer none"
            assert not {"openai-organization", "openai-project", "x-mine"} & headers.keys()
        backend.close()
    assert {name: os.environ[name] for name in held} == held  # for others in this process


_VARIABLES = [name for proxy in PROXY_VARIABLES for name in (proxy, proxy.upper())]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets environment variables of HTTP clients; all others of them are removed."""
    for name in (*_VARIABLES, "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://me:tops3cret@127.0.0.1:9"),
        ("HTTPS_PROXY", "http://me:tops3cret@host:port"),
        ("SSL_CERT_FILE", "/nonexistent/ca.pem"),
    ],
)
def test_a_variable_of_the_environment_that_no_client_can_use_is_named(
    environment: Callable[..., Any], variable: str, value: str
) -> None:
    environment(**{variable: value})
    with pytest.raises(ConfigError, match=f"^the environment variable {variable} cannot be used: ") as failure:
        backend_for("http://127.0.0.1:9/v1")
    assert "tops3cret" not in str(failure.value)


def test_no_proxy_bypasses_a_proxy_that_cannot_be_used(environment: Callable[..., Any]) -> None:
    environment(ALL_PROXY="socks4://127.0.0.1:9", NO_PROXY="localhost,127.0.0.1")
    with ChatServer() as server:
        backend = backend_for(server)
        assert texts(backend.captions(grays(backend, 0))) == ["0: Describe the cup"]
        backend.close()
    assert os.environ["ALL_PROXY"] == "socks4://127.0.0.1:9"  # for others in this process


def test_a_dead_proxy_is_named_before_a_run_and_in_it(environment: Callable[..., Any]) -> None:
    with ChatServer() as proxy:
        dead = proxy.url.removesuffix("/v1")
    environment(HTTP_PROXY=dead.replace("http://", "http://me:tops3cret@"))
    reason = rf"the proxy {dead} of HTTP_PROXY \(NO_PROXY=example.com goes past it\) does not answer, or refuses .* to http://exam"
    backend = backend_for("http://example.com/v1", max_retries=0)
    with pytest.raises(ConfigError, match=f"^{reason}"):
        backend.provenance()
    with pytest.raises(EnvironmentFailure, match=f"^something is wrong with http://example.com/v1: {reason}"):
        backend.captions(grays(backend, 0))
    backend.close()


def test_a_proxy_that_refuses_is_named(environment: Callable[..., Any]) -> None:
    said_of = {
        407: r"^the proxy http://127.* of HTTP_PROXY .* refuses requests \(407\): no",
        403: r"^http://example.com/v1/models, or the proxy http://127.* of HTTP_PROXY .*, refuses the API key \(403\)",
        503: r"^http://example.com/v1/models, or the proxy http://127.* of HTTP_PROXY .*, answers 503: no",
    }
    with ChatServer() as proxy:
        environment(HTTP_PROXY=proxy.url.removesuffix("/v1"))
        backend = backend_for("http://example.com/v1", max_retries=0)
        for status, match in said_of.items():
            proxy.models = refused(status, "no")
            with pytest.raises(ConfigError, match=match):
                backend.provenance()
        backend.close()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"url": "ftp://host/v1"}, r"'ftp://host/v1' cannot be used. Give one such as http://localhost:8000/v1"),
        ({"url": "file:///etc/passwd"}, "cannot be used. Give one such as"),
        ({"url": "localhost:8000"}, "cannot be used. Give one such as"),
        ({"url": "http:///v1"}, "cannot be used. Give one such as"),
        ({"url": "http://host/v1?key=1"}, "cannot be used. Give one such as"),
        ({"url": "http://host:port/v1"}, "is not a URL: Invalid port: .port.$"),
        ({"url": "http://me:tops3cret@host/v1"}, "^--model.backend.server.url holds a password. Give the key by"),
        ({"max_concurrency": 0}, "max_concurrency = 0 must be 1 to 1000"),
        ({"max_retries": -1}, "max_retries = -1 must be 0 or more"),
        ({"request_timeout_seconds": 0.0}, r"request_timeout_seconds = 0\.0 above 0"),
    ],
)
def test_options_of_a_server_out_of_range_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Server(**options)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("https://host/v1/", "https://host/v1"),
        ("http://host/vlm/v2", "http://host/vlm/v2"),
    ],
)
def test_v1_is_added_to_a_url_without_a_path(url: str, base: str) -> None:
    assert Server(url).base_url == base


def test_the_variable_of_a_key_that_is_not_set_is_named() -> None:
    with pytest.raises(ConfigError, match="the environment variable NO_SUCH_KEY is not set"):
        backend_for("http://localhost:1/v1", api_key_env="NO_SUCH_KEY")
