import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from hrkd_cli.errors import HrkdError, ModelError, UsageError
from hrkd_cli.predict import server
from hrkd_cli.predict.bundle import write_bundle
from hrkd_cli.predict.predictor import Predictor
from processes import start as start_process
from tiny_folder import make_texts

LIMITS = {"batch_size": None, "concurrency": 8, "max_body": 2000}


@pytest.fixture(scope="module")
def predictor(student):
    return Predictor(student / "onnx", min_confidence=0.6)


def app(predictor, **options):
    return server.create_app(predictor, model="student/onnx", **(LIMITS | options))


@pytest.fixture
def client(predictor):
    with TestClient(app(predictor)) as client:
        yield client


class FakePredictor:
    """Labels texts when it is told to, and records its calls."""

    batch_size = 4

    def __init__(self):
        self.calls, self.go = [], threading.Event()

    def predict(self, texts, pairs=None, *, domain, batch_size):
        self.calls.append((texts, pairs, domain, batch_size))
        assert self.go.wait(20)
        if "bad" in texts:
            raise UsageError("bad text")
        if "broken" in texts:
            raise ModelError("the model is broken")
        return [SimpleNamespace(to_json=lambda text=text: {"text": text}) for text in texts]


def test_one_text_or_many_get_the_records_of_the_predictor(client, predictor):
    texts = make_texts(5)
    for content, expected in (
        ({"text": "good", "domain": "books"}, predictor.predict(["good"], domain="books")),
        ({"text": "good", "domain": None}, predictor.predict(["good"])),
        ({"text": texts, "domain": "dvd"}, predictor.predict(texts, domain="dvd")),
        ({"text": ["a", ""], "domain": ["dvd", "auto"]}, predictor.predict(["a", ""], domain=["dvd", "auto"])),
        ({"text": [], "domain": []}, []),
        ({"text": []}, []),
    ):
        answer = client.post("/predict", json=content)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == {"predictions": [prediction.to_json() for prediction in expected]}
    assert answer.json() == {"predictions": []}


def test_pairs_are_answered(paired):
    predictor = Predictor(paired / "onnx")
    with TestClient(app(predictor)) as client:
        answer = client.post("/predict", json={"text": ["a", "b"], "text_pair": ["c", "d"], "domain": "dvd"})
        expected = predictor.predict(["a", "b"], ["c", "d"], domain="dvd")
        assert answer.json()["predictions"] == [prediction.to_json() for prediction in expected]
        for content in ({"text": [], "text_pair": []}, {"text": []}):
            answer = client.post("/predict", json=content)
            assert (answer.status_code, answer.json()) == (200, {"predictions": []})
        answer = client.post("/predict", json={"text": "a", "domain": "dvd"})
        assert (answer.status_code, answer.json()["error"][:25]) == (422, "this model reads two text")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "the request is not JSON in UTF-8: Expecting value: line 1 column 1 (char 0)"),
        (b'{"text": "\xff"}', 400, "the request is not JSON in UTF-8: 'utf-8' codec can't decode byte 0xff"),
        (
            '{"text": "a"}'.encode("utf-16"),
            400,
            "the request is not JSON in UTF-8: 'utf-8' codec can't decode byte 0xff",
        ),
        ('{"text": "a"}'.encode("utf-16-le"), 400, "the request is not JSON in UTF-8: Expecting property name"),
        (b'{"text": "\\ud800"}', 400, "the request is not JSON in UTF-8: 'utf-8' codec can't encode character"),
        (b"[" * 1500, 400, "the request is not JSON in UTF-8: "),
        (b'["good"]', 422, 'the request is not an object with the key "text", such as {"text": "it works"}'),
        (b"{}", 422, 'the request is not an object with the key "text"'),
        (b'{"text": null}', 422, 'the request is not an object with the key "text"'),
        (b'{"text": 1}', 422, "text: neither a text nor a list of texts"),
        (b'{"text": ["a", null]}', 422, "text: neither a text nor a list of texts"),
        (b'{"text": "a", "domain": {}}', 422, "domain: neither a text nor a list of texts"),
        (b'{"texts": "a", "text": "b"}', 422, "unknown key 'texts'; the keys are text, text_pair, domain"),
        (b'{"text": "a", "domain": "book"}', 422, "domain 'book' is not one of the model's: books, dvd, auto; did you"),
        (b'{"text": ["a", "b", "c"], "domain": ["dvd", "dvd"]}', 422, "domain: not as many (2) as texts (3)"),
        (b'{"text": ["a", "b"], "domain": []}', 422, "domain: not as many (0) as texts (2)"),
        (b'{"text": "a", "text_pair": ["b", "c"]}', 422, "text_pair: not as many (2) as texts (1)"),
        (b'{"text": "a", "text_pair": "b"}', 422, "this model reads one text"),
        (b'{"text": "' + b"a" * 2000 + b'"}', 413, "the request is larger than 2000 bytes; send fewer texts at a time"),
    ],
)
def test_a_bad_request_gets_one_line_that_says_what_is_wrong(client, body, status, error):
    answer = client.post("/predict", content=body)
    assert answer.status_code == status
    [(key, text)] = answer.json().items()
    assert (key, text[: len(error)], "\n" in text) == ("error", error, False)
    assert f'hrkd_requests_total{{status="{status}"}} 1.0' in client.get("/metrics").text


def test_keys_in_the_address_are_not_ignored(client):
    answer = client.post("/predict?domain=dvd", json={"text": "good"})
    assert answer.status_code == 422
    assert answer.json() == {"error": "the address has ?domain=dvd; the keys belong in the body"}


def test_another_path_or_method_is_an_error_of_the_same_form(client):
    for method, path, status in (("POST", "/predictions", 404), ("POST", "/predict/", 404), ("GET", "/predict", 405)):
        answer = client.request(method, path, content=b"{}", follow_redirects=False)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        assert list(answer.json()) == ["error"]


def test_a_byte_order_mark_is_ignored(client):
    body = '{"text": "good", "domain": "dvd"}'
    answer = client.post("/predict", content=body.encode("utf-8-sig"))
    assert (answer.status_code, answer.content) == (200, client.post("/predict", content=body.encode()).content)


def test_health_describes_the_model(client):
    assert client.get("/health").json() == {
        "status": "ok",
        "model": "student/onnx",
        "file": "model.onnx",
        "domains": {"books": ["negative", "positive"], "dvd": ["negative", "positive"]},
    }


def test_metrics_count_requests_texts_calls_and_time(client):
    for text in ("a", ["b", "c", "d"]):
        client.post("/predict", json={"text": text, "domain": "dvd"})
    client.post("/predict", json={})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = answer.text.splitlines()
    for line in (
        'hrkd_requests_total{status="200"} 2.0',
        'hrkd_requests_total{status="422"} 1.0',
        "hrkd_texts_total 4.0",
        "hrkd_request_seconds_count 3.0",
        "hrkd_batch_texts_count 2.0",
        "hrkd_batch_texts_sum 4.0",
        'hrkd_batch_texts_bucket{le="2.0"} 1.0',
        "hrkd_requests_in_flight 0.0",
        "# TYPE process_cpu_seconds_total counter",
    ):
        assert line in lines


def post_all(client, contents):
    """Send requests at the same time; return threads and the list that receives the answers."""
    answers = [None] * len(contents)

    def post(number):
        answers[number] = client.post("/predict", json=contents[number])

    threads = [threading.Thread(target=post, args=(number,)) for number in range(len(contents))]
    return threads, answers


def start(client, threads):
    """Start requests in order, each when the one before has arrived."""
    for thread in threads:
        before = in_flight(client)
        thread.start()
        wait_for(lambda before=before: in_flight(client) == before + 1)


def in_flight(client):
    return float(re.search(r"^hrkd_requests_in_flight (.*)$", client.get("/metrics").text, re.MULTILINE)[1])


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_requests_that_wait_are_answered_in_one_call_up_to_the_batch_size():
    predictor = FakePredictor()
    with TestClient(app(predictor)) as client:
        texts = ["first", "a", ["b", "c"], "d", "e", ["f", "g", "h", "i", "j"]]
        threads, answers = post_all(client, [{"text": text, "domain": "books"} for text in texts])
        start(client, threads)
        predictor.go.set()
        for thread in threads:
            thread.join()
    assert [call[0] for call in predictor.calls] == [["first"], ["a", "b", "c", "d"], ["e"], ["f", "g", "h", "i", "j"]]
    assert {call[3] for call in predictor.calls} == {4}
    assert [call[2] for call in predictor.calls][1] == ["books"] * 4
    for text, answer in zip(texts, answers, strict=True):
        expected = [text] if isinstance(text, str) else text
        assert [record["text"] for record in answer.json()["predictions"]] == expected


def test_a_bad_request_does_not_spoil_those_that_it_waits_with():
    predictor = FakePredictor()
    with TestClient(app(predictor)) as client:
        contents = [{"text": text} for text in ("first", "a", "bad", "broken")] + [{"text": "b", "text_pair": "c"}]
        threads, answers = post_all(client, contents)
        start(client, threads)
        predictor.go.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200, 422, 500, 200]
        assert [answer.json() for answer in answers[2:4]] == [{"error": "bad text"}, {"error": "the model is broken"}]
        assert (["b"], ["c"], ["auto"], 4) in predictor.calls
        assert client.post("/predict", json={"text": "again"}).status_code == 200


@pytest.mark.parametrize("text", ["first", "bad"])
def test_a_request_that_is_cancelled_does_not_stop_the_others(text):
    async def cancel_one():
        predictor = FakePredictor()
        batcher = server.Batcher(predictor, 4, lambda _: None)
        running = asyncio.create_task(batcher.run())
        cancelled = asyncio.create_task(batcher.predict([text], None, ["auto"]))
        while not predictor.calls:
            await asyncio.sleep(0.01)
        cancelled.cancel()
        predictor.go.set()
        answer = await asyncio.wait_for(batcher.predict(["next"], None, ["auto"]), 20)
        running.cancel()
        return [prediction.to_json() for prediction in answer]

    assert asyncio.run(cancel_one()) == [{"text": "next"}]


def test_an_unexpected_error_is_an_answer_and_the_next_request_is_served():
    predictor = FakePredictor()
    predictor.go.set()
    predictor.predict, kept = None, predictor.predict  # a TypeError
    with TestClient(app(predictor), raise_server_exceptions=False) as client:
        assert client.post("/predict", json={"text": "a"}).status_code == 500
        assert 'hrkd_requests_total{status="500"} 1.0' in client.get("/metrics").text
        predictor.predict = kept
        assert client.post("/predict", json={"text": "a"}).status_code == 200


def test_more_requests_than_allowed_at_a_time_are_sent_away():
    predictor = FakePredictor()
    with TestClient(app(predictor, concurrency=2)) as client:
        threads, answers = post_all(client, [{"text": "a"}, {"text": "b"}])
        start(client, threads)
        answer = client.post("/predict", json={"text": "c"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {"error": "2 requests are in progress, the most at a time; try again"}
        predictor.go.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert client.post("/predict", json={"text": "d"}).status_code == 200


def call(application, messages):
    """Run one request to /predict with the given ASGI messages; return the status."""
    sent, rest = [], iter(messages)

    async def receive():
        message = next(rest, None)
        return message if message is not None else await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
    }
    asyncio.run(asyncio.wait_for(application(scope, receive, send), 10))
    return sent[0]["status"]


def test_a_request_that_does_not_arrive_ends(predictor, monkeypatch):
    part = {"type": "http.request", "body": b'{"te', "more_body": True}
    assert call(app(predictor), [part, {"type": "http.disconnect"}]) == 400
    monkeypatch.setattr(server, "_BODY_SECONDS", 0.05)
    assert call(app(predictor), [part]) == 408


def test_what_cannot_be_served_is_an_error_at_the_start(student, finding):
    options = {"model": "m", "host": "127.0.0.1", "announce": print, **LIMITS}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HrkdError, match=rf"^--port {port}: cannot listen on 127.0.0.1 .Address already in use.; "):
            server.serve(Predictor(student / "onnx"), port=port, **options)
    with pytest.raises(HrkdError, match=r"^--port 70000: cannot listen on 127.0.0.1 "):
        server.serve(Predictor(student / "onnx"), port=70000, **options)
    predictor = Predictor(finding / "onnx/model_quantized.onnx", target_accuracy=99)
    with pytest.raises(ModelError, match="--target-accuracy 99: the 8 dev rows of the export support"):
        server.serve(predictor, port=0, **options)


@pytest.fixture(params=["hrkd", "hrkd-runtime"])
def program(request, tmp_path):
    if request.param == "hrkd":
        return [sys.executable, "-m", "hrkd_cli", "serve"]
    write_bundle(tmp_path / "runtime.pyz")
    return [sys.executable, tmp_path / "runtime.pyz", "serve"]


def ask(url, content=None):
    data = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(url, data, timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_the_server_after_the_requests_in_progress(program, student, tmp_path, number, code):
    process = start_process(student / "onnx", "--port", "0", "--threads", "1", cwd=tmp_path, program=program[1:])
    try:
        line = process.stderr.readline()
        url = re.fullmatch(rf"serving {student / 'onnx'} at (http://127\.0\.0\.1:\d+)\n", line)[1]
        assert json.loads(ask(f"{url}/predict", {"text": "good", "domain": "dvd"}))["predictions"][0]["text"] == "good"
        answers = []
        texts = make_texts(12) * 250
        thread = threading.Thread(
            target=lambda: answers.append(ask(f"{url}/predict", {"text": texts, "domain": "dvd"}))
        )
        thread.start()
        wait_for(lambda: "hrkd_requests_in_flight 1.0" in ask(f"{url}/metrics"))
        process.send_signal(number)
        thread.join(60)
        assert len(json.loads(answers[0])["predictions"]) == len(texts)
        assert process.wait(60) == code
        assert process.stderr.read() == ("hrkd serve: interrupted\n" if code and program[1] == "-m" else "")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        process.stdout.close()
    with pytest.raises(urllib.error.URLError):
        ask(f"{url}/health")


def test_without_the_extra_packages_one_line_says_how_to_install_them(student, tmp_path):
    write_bundle(tmp_path / "runtime.pyz")
    names = "starlette uvicorn prometheus-client"
    block = "import sys; sys.modules['starlette.applications'] = None; sys.argv = sys.argv[1:]; import runpy\n"
    for run, start in (
        ("runpy.run_module('hrkd_cli', run_name='__main__')", "hrkd serve: "),
        (f"runpy.run_path({str(tmp_path / 'runtime.pyz')!r}, run_name='__main__')", ""),
    ):
        command = [sys.executable, "-c", block + run, "program", "serve", student / "onnx"]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (process.returncode, process.stdout) == (1, "")
        assert process.stderr == (
            f"{start}serve needs {names.replace(' ', ', ')}: {sys.executable} -m pip install {names}\n"
        )
