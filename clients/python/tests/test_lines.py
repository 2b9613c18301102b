"""The lines of the protocol, against the vectors of its documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bellwire import ProtocolFault
from bellwire.core import grammar, hello, notices
from bellwire.core.lines import Malformed, Notice, Splitter, encode, parse

VECTORS = json.loads((Path(__file__).parents[3] / "docs/protocol/vectors.json").read_text())
REPLIES = [vector for vector in VECTORS["lines"] if vector["direction"] == "reply"]
FIRSTS = [vector for vector in VECTORS["lines"] if vector["direction"] == "first"]


def name_of(vector: dict[str, Any]) -> str:
    return str(vector["name"])


@pytest.mark.parametrize("vector", VECTORS["body"], ids=name_of)
def test_bodies_are_stuffed_as_the_vectors_say(vector: dict[str, Any]) -> None:
    wire = bytes.fromhex(vector["hex"])
    if vector["verdict"] == "ok":
        plain = bytes.fromhex(vector["plain"])
        assert grammar.stuff(plain) == wire
        assert grammar.unstuff(wire) == plain
    else:
        with pytest.raises(Malformed):
            parse(b"1 ok " + wire)


@pytest.mark.parametrize("vector", REPLIES, ids=name_of)
def test_replies_are_parsed_as_the_vectors_say(vector: dict[str, Any]) -> None:
    def read() -> None:
        line = parse(bytes.fromhex(vector["hex"]))
        if isinstance(line, Notice):
            notices.read(line)

    if vector["verdict"] == "ok":
        read()
    else:
        with pytest.raises(Malformed):
            read()


@pytest.mark.parametrize("vector", FIRSTS, ids=name_of)
def test_first_lines_are_parsed_as_the_vectors_say(vector: dict[str, Any]) -> None:
    if vector["verdict"] == "ok":
        hello.read(parse(bytes.fromhex(vector["hex"])))
    else:
        with pytest.raises(ProtocolFault):
            hello.read(parse(bytes.fromhex(vector["hex"])))


def test_a_stream_may_be_cut_anywhere() -> None:
    stream = b"1 ok a\n\n* t 1 x\nrest"
    for cut in range(len(stream) + 1):
        splitter = Splitter(1_024)
        lines = [*splitter.feed(stream[:cut]), *splitter.feed(stream[cut:])]
        assert lines == [b"1 ok a", b"", b"* t 1 x"]


@pytest.mark.parametrize("length, fits", [(1_023, True), (1_024, False)])
def test_a_line_with_its_lf_is_within_the_limit(length: int, fits: bool) -> None:
    line = b"x" * length + b"\n"
    for pieces in ([line], [line[:500], line[500:]], [line[:-1], b"\n"]):
        splitter = Splitter(1_024)
        if fits:
            assert [found for piece in pieces for found in splitter.feed(piece)] == [b"x" * length]
        else:
            with pytest.raises(Malformed):
                for piece in pieces:
                    list(splitter.feed(piece))


def test_an_endless_line_is_not_held() -> None:
    splitter = Splitter(1_024)
    with pytest.raises(Malformed):
        for _ in range(100):
            list(splitter.feed(b"x" * 100))


def test_an_empty_body_has_no_sp() -> None:
    assert encode(7, "m", {}, b"") == b"7 m\n"
    assert encode(None, "m", {"a.b": "c"}, b" x\n") == b"* m;a.b=c  x\x10J\n"


def test_texts_of_the_peer_are_escaped_and_cut() -> None:
    line = parse(b"1 err app \x1b[31m\xff" + b"x" * 500)
    assert not isinstance(line, Notice)
    text = grammar.printable(b"\x1b[31m\xff" + b"x" * 500)
    assert text.startswith("\\x1b[31m\\xff") and len(text) == 256


@pytest.mark.parametrize("method", ["", "/quit", "ok", "a b", "a..b", "é", "x" * 129])
def test_bad_methods_are_named_before_anything_is_sent(method: str) -> None:
    with pytest.raises(ValueError, match="is not the name"):
        grammar.check_method(method)


@pytest.mark.parametrize("attributes", [{"nodot": "x"}, {"A.b": "x"}, {"a.b": ""}, {"a.b": "x y"}, {"a.b": "x;y"}])
def test_bad_attributes_are_named(attributes: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        grammar.check_attributes(attributes)
