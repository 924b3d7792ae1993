"""The systems that can be asked, as their users' plugins ask them."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from keyahead.cli import loadtest_checks as checks
from keyahead.cli.output import UsageError
from keyahead.loadtest import judge
from keyahead.loadtest.config import Kind, Target, Via
from keyahead.loadtest.judge import Ask, Failed
from keyahead.loadtest.standin import LATENCIES, Latency, StandIn
from keyahead.loadtest.targets import connect
from tests.loadtest.conftest import passage, source

ASK = Ask(0, 0.0, passage("return x\nprint(1)", before="def f(x):\n    ", after="\nrest\n"), 0, 3, "")


class Api(ThreadingHTTPServer):
    """Answers any POST with what a test says, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []
        self.status, self.reply = 200, "{}"
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        api = self.server
        assert isinstance(api, Api)
        api.asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        api.keys.append(self.headers["Authorization"])
        self.send_response(api.status)
        self.end_headers()
        self.wfile.write(api.reply.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    """A running one."""
    server = Api()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_completions_have_prompt_and_suffix(api: Api) -> None:
    """An OpenAI-compatible completion endpoint gets the text around the cursor, and its count of tokens is kept."""
    api.reply = json.dumps({"choices": [{"text": "urn x"}], "usage": {"prompt_tokens": 30, "completion_tokens": 4}})
    answer = connect(Target(Kind.OPENAI, api.url, "api", "m"), 0, "r")(ASK)
    assert (answer.text, answer.tokens_in, answer.tokens_out) == ("urn x", 30, 4)
    [(path, body)] = api.asked
    assert path == "/v1/completions"
    assert body == {"model": "m", "max_tokens": 32, "temperature": 0, "prompt": "def f(x):\n    ret", "suffix": "\nrest\n"}


def test_llama_server_is_asked_as_llama_vim_asks(api: Api) -> None:
    """Whole lines as prefix, the current line as prompt."""
    api.reply = json.dumps({"content": "urn x", "tokens_evaluated": 9, "tokens_predicted": 3})
    answer = connect(Target(Kind.LLAMA, api.url, "llama"), 0, "r")(ASK)
    assert (answer.text, answer.tokens_in, answer.tokens_out) == ("urn x", 9, 3)
    [(path, body)] = api.asked
    assert path == "/v1/infill"
    assert (body["input_prefix"], body["prompt"], body["input_suffix"], body["n_indent"]) == ("def f(x):\n", "    ret", "\nrest\n\n", 4)


@pytest.mark.parametrize("kind", [Kind.CHAT, Kind.VLLM])
def test_other_apis_get_the_document_too(api: Api, kind: Kind) -> None:
    """Between Qwen's markers, or in words."""
    api.reply = json.dumps({"choices": [{"text": "urn x", "message": {"content": "urn x"}}]})
    assert connect(Target(kind, api.url, "api", "m"), 0, "r")(ASK).text == "urn x"
    [(_, body)] = api.asked
    assert "def f(x):\\n    ret" in json.dumps(body)


@pytest.mark.parametrize(("status", "reply", "code"), [(500, "{}", "HTTP 500"), (200, "nonsense", "JSONDecodeError")])
def test_failures_have_a_code_and_no_text(api: Api, status: int, reply: str, code: str) -> None:
    """What the server said is not kept."""
    api.status, api.reply = status, reply
    with pytest.raises(Failed, match=f"^{code}$"):
        connect(Target(Kind.OPENAI, api.url, "api", "m"), 0, "r")(ASK)


def test_a_key_goes_to_apis_only(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A llama-server, or what is simulated, needs none and is not shown it."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    targets = [Target(kind, api.url, "api", "m") for kind in (Kind.OPENAI, Kind.CHAT, Kind.VLLM, Kind.LLAMA)]
    for target in [*targets, Target(Kind.OPENAI, api.url, "api", "m", simulated=True)]:
        connect(target, 0, "r")(ASK)
    assert api.keys == ["Bearer secret"] * 3 + [None] * 2


def test_a_baseline_that_does_not_answer_is_said_before_anything_is_started(api: Api) -> None:
    """Such as one that does not know the key; one that answers is asked once."""
    checks.baseline(Target(Kind.OPENAI, api.url, "openai:m", "m"))
    assert len(api.asked) == 1
    api.status = 401
    with pytest.raises(UsageError, match=r"HTTP 401.*OPENAI_API_KEY"):
        checks.baseline(Target(Kind.OPENAI, api.url, "openai:m", "m"))


def test_the_stand_in_has_the_published_latencies() -> None:
    """Its quantiles, or its mean, are those that it says; drawn, not waited for."""
    drawn = {name: sorted(latency.draw_s(random.Random(n)) for n in range(20_000)) for name, latency in LATENCIES.items()}
    assert drawn["completion"][10_000] == pytest.approx(0.329, rel=0.05)
    assert drawn["completion"][19_800] == pytest.approx(1.862, rel=0.1)
    assert statistics.mean(drawn["chat"]) == pytest.approx(0.8, rel=0.05)


def test_the_stand_in_answers_with_the_rest_of_the_line() -> None:
    """Perfectly, in both APIs."""
    server = StandIn(Latency(0.001, 0.1, ""), 1)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        for kind in (Kind.OPENAI, Kind.CHAT):
            answer = connect(Target(kind, server.url, "s", simulated=True), 0, "r")(ASK)
            assert answer.text == "urn x"
            assert answer.tokens_in > 0
    finally:
        server.close()
        thread.join()


@pytest.mark.parametrize("via", list(Via))
def test_typists_type_in_locusts_own_command(tmp_path: Path, via: Via) -> None:
    """The file for Locust's web page runs in Locust's own command. Nobody answers, so that its exit code tells of failed requests."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(6):
        (texts / f"{number}.py").write_text(source(str(number)).text)
    file = Path(str(judge.__file__)).with_name("locustfile.py")
    options = f"--headless -u 2 -r 2 -t 6s --host 127.0.0.1:1 --csv x --via {via} --texts {texts}"
    command = [sys.executable, "-m", "locust", "-f", str(file), *options.split()]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 1, run.stderr
    assert "UNAVAILABLE" in (tmp_path / "x_failures.csv").read_text()
