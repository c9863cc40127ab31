"""Services that answer wrongly or refuse: what the caller is told."""

from typing import Any

import pytest
from fault_server import Answer, FaultServer, Time, remote, scored
from service_calls import Ask, failing, plainly

# Answers that cannot be used


def rows(*pairs: tuple[Any, Any]) -> Answer:
    return Answer({"results": [{"index": index, "relevance_score": score} for index, score in pairs]})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (rows((0, 1.0), (1, 1.0), (3, 1.0)), "its result 2 has the index 3, expected 0 to 2"),
        (rows((0, 1.0), (-1, 1.0), (2, 1.0)), "its result 1 has the index -1, expected 0 to 2"),
        (rows(("0", 1.0)), "its result 0 has the index '0', expected 0 to 2"),
        (rows((True, 1.0)), "its result 0 has the index True, expected 0 to 2"),
        (rows((0.0, 1.0)), "its result 0 has the index 0.0, expected 0 to 2"),
        (rows((None, 1.0)), "its result 0 has the index None, expected 0 to 2"),
        (rows((0, 1.0), (1, 1.0), (1, 0.5)), "it has document 1 twice"),
        (rows((0, 1.0), (1, 1.0), (2, 1.0), (0, 1.0)), "it has document 0 twice"),
        (rows((0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)), "its result 3 has the index 3, expected 0 to 2"),
        (rows((1, 1.0)), "2 of 3 documents have no score: 0, 2"),
        (rows(), "3 of 3 documents have no score: 0, 1, 2"),
        (
            Answer(b'{"results": [{"index": 0, "relevance_score": NaN}]}'),
            "of document 0 is nan, expected a finite number",
        ),
        (Answer(b'{"results": [{"index": 0, "relevance_score": 1e999}]}'), "of document 0 is inf, expected a finite"),
        (Answer(b'{"results": [{"index": 0, "relevance_score": 1%s}]}' % (b"0" * 400)), "of document 0 is 1000"),
        (rows((0, "0.9")), "the relevance_score of document 0 is '0.9', expected a finite number"),
        (rows((0, None)), "the relevance_score of document 0 is None, expected a finite number"),
        (rows((0, True)), "the relevance_score of document 0 is True, expected a finite number"),
        (Answer({"results": [[0, 1.0]]}), "its result 0 is [0, 1.0], expected an object"),
        (Answer({"results": {"0": 1.0}}), "expected the list 'results' of results, got an object with 'results'"),
        (Answer({"data": []}), "expected the list 'results' of results, got an object with 'data'"),
        (Answer([]), "expected the list 'results' of results, got []"),
        (Answer(None, headers={"x": "y"}), "expected the list 'results' of results, got None"),
        (Answer(b'{"results": ['), "expected JSON, got '{\"results\": [' (application/json)"),
        (
            Answer(b"<html>\n<b>Sign in</b>", headers={"content-type": "text/html"}),
            "'<html> <b>Sign in</b>' (text/html)",
        ),
        (Answer(b""), "expected JSON, got an empty body"),
        (Answer(b"[" * 100_000), "expected JSON, got '[[[["),
        (Answer(b"\xff\xfe\xff"), "expected JSON, got"),
        (Answer(b"x" * 2_000_000), "it is larger than 10488"),
        (Answer(b"gzip?", headers={"content-encoding": "gzip"}), "its answer cannot be read"),
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error_that_says_why(
    faults: FaultServer, ask: Ask, answer: Answer, words: str
) -> None:
    faults.answers = [answer]
    clock = Time()
    error = failing(ask, remote(faults.address, time=clock))
    assert words in str(error)
    assert str(error).startswith(f"{faults.address}/v1/rerank ")
    assert len(str(error)) < 600
    assert (len(faults.received), clock.pauses) == (1, [])


def test_an_answer_that_is_too_large_is_not_read_to_its_end(faults: FaultServer, ask: Ask) -> None:
    faults.answers = [Answer(b"x" * 50_000_000)]
    failing(ask, remote(faults.address))
    assert faults.left.wait(5)


def test_an_answer_may_repeat_the_documents(faults: FaultServer) -> None:
    escaped = "\\u0416" * 300_000  # a letter of two bytes in six

    faults.then = lambda _: Answer(
        b'{"results": [{"index": 0, "relevance_score": 1, "document": "%s"}]}' % escaped.encode()
    )
    with remote(faults.address) as function:
        assert function.score("q", ["Ж" * 300_000]) == [1.0]
        assert "it is larger than" in str(failing(plainly, function))


def test_the_error_of_an_unusable_answer_has_its_status_and_says_what_to_look_at(faults: FaultServer, ask: Ask) -> None:
    faults.answers = [Answer({"data": []}, 201)]
    error = failing(ask, remote(faults.address))
    assert error.status == 201
    assert str(error).endswith("; does it speak the dialect 'jina', and is the address right?")


def test_a_lost_document_in_one_of_several_requests_is_an_error(faults: FaultServer, ask: Ask) -> None:
    faults.answers = [scored(1.0), scored(1.0), rows()]
    assert "1 of 1 documents have no score: 0" in str(failing(ask, remote(faults.address, max_documents=1)))


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (302, {"location": "https://elsewhere/x?token=1"}, "it points to https://elsewhere/x: give that address"),
        (301, {}, "give the address it points to"),
        (401, {}, "is the key right? pass api_key=..."),
        (404, {}, "is the address right? The dialect 'jina' has the route /v1/rerank"),
        (413, {}, "lower max_documents: a request had up to 1000 documents (max_documents)"),
        (422, {}, "are model_name and dialect 'jina' right?"),
    ],
)
def test_a_refusal_says_what_to_do(
    faults: FaultServer, ask: Ask, status: int, headers: dict[str, str], words: str
) -> None:
    faults.answers = [Answer({"message": "no"}, status, headers)]
    error = failing(ask, remote(faults.address))
    assert words in str(error)
    assert "token" not in str(error)
    assert len(faults.received) == 1  # a redirection is not followed: the key and the texts go to one address only


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"message": "cohere says"}, "(cohere says)"),
        ({"detail": "voyage says"}, "(voyage says)"),
        ({"error": "tei says", "error_type": "Validation"}, "(tei says)"),
        ({"error": {"message": "vllm says", "code": 400}}, "(vllm says)"),
        ({"code": "InvalidParameter", "message": "dashscope says", "request_id": "x"}, "(dashscope says)"),
        (
            {"detail": [{"loc": ["body", "texts"], "msg": "missing"}]},
            '([{"loc": ["body", "texts"], "msg": "missing"}])',
        ),
        (["odd"], '(["odd"])'),
        ({"code": 7}, '({"code": 7})'),
        ({}, "answered 400; "),
        (b"plain\nwords \x1b[31m", "(plain words [31m)"),
        (b"", "answered 400; "),
        (b"y" * 5000, "(" + "y" * 197 + "...)"),
    ],
)
def test_what_a_service_says_is_passed_on_in_short(faults: FaultServer, ask: Ask, body: Any, words: str) -> None:
    faults.answers = [Answer(body, 400)]
    assert words in str(failing(ask, remote(faults.address)))
