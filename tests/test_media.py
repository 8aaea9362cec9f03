"""Pictures and sound: what of a row's columns is sent, byte for byte, and what of it is kept."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from tests.conftest import rows, write
from tests.test_chat_jobs import MULTI_TURN
from tests.test_completion_jobs import CHAT, failures, said, submit
from tests.test_endpoint import Server, answering, serving

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
JPEG, GIF, WEBP = b"\xff\xd8\xff\xe0" + b"j" * 500, b"GIF89a" + b"g" * 9, b"RIFF\0\0\0\0WEBPVP8 "
WAV, MP3 = b"RIFF\x24\0\0\0WAVEfmt " + b"w" * 400, b"ID3\x04" + b"m" * 9
ENGINES = pytest.mark.parametrize("engine", ["pandas", "polars"])


def picture(content: bytes, form: str = "png") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/{form};base64,{base64.b64encode(content).decode()}"}}


def sound(content: bytes, form: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": form}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def asked(columns: dict[str, Any], job: str = CHAT, **options: Any) -> Server:
    """A server that was asked about the rows of `columns`, one after the other."""
    write("in.parquet", pa.table(columns))
    with serving(answering(lambda: said("seen"))) as server:
        submit(server.url, job, max_concurrency=1, **options)
    return server


def contents(columns: dict[str, Any], job: str = CHAT, **kwargs: Any) -> list[Any]:
    """The contents of the last messages that are sent for the rows of `columns`, of which `item` is the text."""
    return [body["messages"][-1]["content"] for body in asked(columns, job, job_kwargs=kwargs).bodies]


@ENGINES
def test_bytes_go_in_front_of_the_text_with_the_type_that_they_have(engine: str) -> None:
    given = {"item": ["a", "b", "c", "d", "e"], "seen": [PNG, JPEG, GIF, WEBP, None]}
    server = asked(given, job_kwargs={"images": "seen"}, data_backend=engine)
    assert [body["messages"] for body in server.bodies] == [
        [{"role": "user", "content": [picture(content, form), text(words)]}]
        for content, form, words in ((PNG, "png", "a"), (JPEG, "jpeg", "b"), (GIF, "gif", "c"), (WEBP, "webp", "d"))
    ] + [[{"role": "user", "content": [text("e")]}]]


@ENGINES
def test_structs_with_bytes_and_lists_of_them_as_hugging_face_has_them(engine: str) -> None:
    Path("b.png").write_bytes(PNG + b"b")
    structs = [[{"bytes": PNG, "path": "x.png"}, {"bytes": None, "path": "b.png"}], [], None]
    server = asked({"item": ["a", "b", "c"], "seen": structs}, job_kwargs={"images": "seen"}, data_backend=engine)
    assert [body["messages"][-1]["content"] for body in server.bodies] == [
        [picture(PNG), picture(PNG + b"b"), text("a")], [text("b")], [text("c")],
    ]  # fmt: skip


def test_paths_are_read_and_urls_are_sent_as_they_are() -> None:
    Path("a.png").write_bytes(PNG)
    with fsspec.open("memory://media/b.gif", "wb") as file:
        file.write(GIF)
    links = ["https://host/x.jpg", "data:image/png;base64,AAAA"]
    given = ["memory://media/b.gif", "a.png", Path("a.png").resolve().as_uri(), *links]
    sent = contents({"item": list("abcde"), "seen": given}, images="seen")
    assert [parts[0] for parts in sent] == [
        picture(GIF, "gif"), picture(PNG), picture(PNG),
        *({"type": "image_url", "image_url": {"url": url}} for url in links),
    ]  # fmt: skip


def test_sound_is_sent_with_its_format() -> None:
    url = f"data:audio/wav;base64,{base64.b64encode(WAV).decode()}"
    Path("a.mp3").write_bytes(MP3)
    assert contents({"item": ["a", "b"], "heard": [url, "a.mp3"]}, audio="heard") == [
        [sound(WAV, "wav"), text("a")],
        [sound(MP3, "mp3"), text("b")],
    ]


def test_a_prompt_says_where_they_go() -> None:
    columns = {"item": ["x"], "one": [PNG], "more": [[JPEG, GIF]], "heard": [MP3]}
    prompt = "First {image}, then {image} and {audio}: {item}?"
    assert contents(columns, images=["one", "more"], audio=["heard"], prompt=prompt) == [
        [
            picture(GIF, "gif"),
            text("First "),
            picture(PNG),
            text(", then "),
            picture(JPEG, "jpeg"),
            text(" and "),
            sound(MP3, "mp3"),
            text(": x?"),
        ]
    ]


def test_a_prompt_without_columns_needs_no_other_than_the_pictures() -> None:
    server = asked(
        {"image": [PNG], "other": [1]}, input_columns=[], job_kwargs={"images": "image", "prompt": "What is {image}?"}
    )
    assert server.bodies[0]["messages"][-1]["content"] == [text("What is "), picture(PNG), text("?")]


def test_they_belong_to_the_last_message_of_the_users_and_every_turn_keeps_them() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    server = asked(
        {"item": [turns], "seen": [PNG]}, MULTI_TURN, job_kwargs={"images": "seen"}, output_columns=["conversation"]
    )
    assert [body["messages"][-1]["content"] for body in server.bodies] == ["a", [picture(PNG), text("b")]]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"plain text", "format"),
        (b"", "format"),
        ("missing.png", "missing.png"),
        (".", "cannot be read"),
        (5, "bytes, a path or a URL"),
        ({"bytes": None, "path": None}, "bytes, a path or a URL"),
        (PNG + b"x" * 2000, "max_media_bytes"),
        ("big.png", "max_media_bytes"),
        ("nosuch://x/y.png", "cannot be read"),
    ],
    ids=["text", "empty", "missing", "folder", "number", "nothing", "large", "large file", "protocol"],
)
def test_what_cannot_be_sent_fails_its_row_alone_and_sends_nothing(value: Any, words: str) -> None:
    Path("big.png").write_bytes(PNG + b"x" * 2000)
    server = asked({"item": ["a"], "seen": [value]}, retries=3, job_kwargs={"images": "seen", "max_media_bytes": 2000})
    assert server.bodies == []
    ((kind, message, attempts),) = failures()
    assert (kind, attempts) == ("ItemError", 1)
    assert "'seen'" in message
    assert words in message


def test_a_prompt_with_more_places_than_pictures_fails_its_row() -> None:
    assert contents({"item": ["a"], "seen": [PNG]}, images="seen", prompt="{image}{image}{item}") == []
    assert failures()[0][0] == "ItemError"


@pytest.mark.parametrize(
    ("values", "kwargs"),
    [
        ([PNG], {}),
        ([[{"role": "user", "content": [{"type": "image", "image": PNG}]}]], {}),
        ([PNG], {"prompt": "Look: {item}"}),
        ([{"picture": PNG}], {"prompt": "Look: {item}"}),
    ],
    ids=["item", "messages", "prompt", "struct in prompt"],
)
def test_bytes_anywhere_else_fail_their_row_with_the_way_to_send_them(values: Any, kwargs: dict[str, Any]) -> None:
    assert contents({"item": values}, **kwargs) == []
    ((kind, message, _),) = failures()
    assert kind == "ItemError"
    assert "`images`" in message


def test_a_trace_keeps_the_size_and_the_digest_and_no_bytes_of_them() -> None:
    asked({"item": ["a"], "seen": [PNG], "heard": [WAV]}, job_kwargs={"images": "seen", "audio": "heard"})
    (part,) = Path(".domyn-swarm/out.parquet/parts").glob("*.parquet")
    kept = json.dumps(rows(part), default=str)
    for content in (PNG, WAV):
        assert base64.b64encode(content).decode()[:100] not in kept
        assert f"({len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()})" in kept
