"""What an operator sees of the real stack: a real Prometheus, the dashboard's queries, a collector's traces, the status page."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from keyahead.engine.contract import EngineRequest
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.service.engine_client import EngineClient
from tests.browser import Browser
from tests.collector import Collector, attributes, collecting
from tests.e2e.conftest import SOURCE, Running, eventually, free_ports, start, stop

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "keyahead.rules.yaml"
QUERIES = [
    (panel["title"], target["expr"].replace("$__rate_interval", "1m"))
    for panel in json.loads((DEPLOY / "grafana" / "keyahead.json").read_text())["panels"]
    for target in panel.get("targets", ())
]
PATIENCE_S = 90.0

Ask = Callable[[str], Any]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A receiver of traces."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def stack(collector: Collector) -> Iterator[Running]:
    """A stack that traces every call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYAHEAD_OTLP_ENDPOINT", collector.endpoint)
        patch.setenv("KEYAHEAD_TRACE_RATIO", "1")
        running = start()
    yield running
    assert stop(running) == 0


@pytest.fixture(scope="module")
def ask(stack: Running, prometheus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Prometheus' API, for our own configuration with this stack's ports, and every second rather than every fifteen."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    config["global"]["scrape_interval"] = "1s"
    for job, page in zip(config["scrape_configs"], (stack.metrics, stack.triton_metrics), strict=True):
        job["static_configs"] = [{"targets": [urllib.parse.urlsplit(page).netloc]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (folder / RULES.name).write_text(RULES.read_text().replace("interval: 30s", "interval: 1s"))
    (port,) = free_ports(1)
    listen = f"--web.listen-address=127.0.0.1:{port}"
    command = [str(prometheus / "prometheus"), f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data", listen]
    base = f"http://127.0.0.1:{port}"

    def get(path: str) -> Any:
        with urllib.request.urlopen(f"{base}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def answers() -> bool:
        try:
            return bool(get("targets"))
        except urllib.error.URLError:
            return False

    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        assert eventually(answers, 30)
        yield get
        server.terminate()


def query(ask: Ask, expression: str) -> list[float]:
    """The values of an instant query, without those that are not numbers."""
    result = ask(f"query?{urllib.parse.urlencode({'query': expression})}")["result"]
    values = [float(series["value"][1]) for series in result]
    return [value for value in values if math.isfinite(value)]


def some_of_everything(stack: Running, number: int) -> None:
    """Calls that end in every way a healthy stack knows."""
    prefix = SOURCE[number * 500 : number * 500 + 900]
    for _ in range(2):  # from the engine, then from the cache
        stack.complete(prefix, max_tokens=4)
    stack.complete(prefix + "x", trigger=pb.TRIGGER_AUTOMATIC)
    document = pb.Document(path="a.py", split=pb.SplitText(prefix=prefix + "\n\n\ndef "))
    by_hand = pb.CompleteRequest(document=document, trigger=pb.TRIGGER_MANUAL, session_id=f"s{number}")
    older = stack.stub.Complete.future(by_hand, timeout=30)
    eventually(lambda: False, 0.1)
    newer = stack.stub.Complete.future(by_hand, timeout=30)
    assert older.code() in {grpc.StatusCode.ABORTED, grpc.StatusCode.OK}  # It may have been quicker than we.
    newer.result(timeout=30)
    leaving = stack.stub.Complete.future(
        pb.CompleteRequest(document=pb.Document(split=pb.SplitText(prefix=f"# {number}\n{prefix}")), trigger=pb.TRIGGER_MANUAL), timeout=30
    )
    eventually(lambda: False, 0.1)
    leaving.cancel()
    with pytest.raises(grpc.RpcError):
        stack.stub.Complete(pb.CompleteRequest(), timeout=5)
    asyncio.run(verify_drafts(str(stack.started["addresses"]["triton"])))  # type: ignore[index]


async def verify_drafts(triton: str) -> None:
    """One engine request with drafts, as a drafting service sends it."""
    engine = EngineClient(triton)
    engine.start()
    async with asyncio.timeout(30):
        while not engine.ready:
            await asyncio.sleep(0.02)
        request = EngineRequest(input_ids=tuple(range(100, 140)), max_new_tokens=4, draft_ids=(140, 141, 142), end_id=0, pad_id=0)
        _ = [each async for each in engine.decode(request)]
    await engine.aclose()


def test_every_panel_of_the_dashboard_has_data(stack: Running, ask: Ask) -> None:
    """Each query of each panel returns numbers, once there has been some of every traffic."""
    missing: list[tuple[str, str]] = []
    for number in range(12):
        some_of_everything(stack, number)
        missing = [(title, expression) for title, expression in QUERIES if not query(ask, expression)]
        if not missing:
            break
    assert missing == []


def test_every_rule_is_evaluated(ask: Ask) -> None:
    """All rules are healthy in the real Prometheus, and both pages are scraped."""

    def healthy() -> bool:
        rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        return len(rules) > 10 and all(rule["health"] == "ok" for rule in rules)

    assert eventually(healthy, PATIENCE_S)
    assert [target["health"] for target in ask("targets")["activeTargets"]] == ["up", "up"]


def test_prometheus_and_the_status_page_agree(stack: Running, ask: Ask) -> None:
    """The calls counted, and the good ones among them, by slo.yaml's queries and by the page's own code."""
    slo = next(each for each in yaml.safe_load_all((DEPLOY / "slo.yaml").read_text()) if each["kind"] == "SLO")
    metric = slo["spec"]["indicator"]["spec"]["ratioMetric"]
    totals = [re.sub(r"rate\((.*?)\[{{.window}}\]\)", r"\1", metric[each]["metricSource"]["spec"]["query"]) for each in ("good", "total")]

    def agree() -> bool:
        with urllib.request.urlopen(stack.metrics.replace("/metrics", "/status.json"), timeout=5) as page:
            window = json.load(page)["windows"]["start"]
        scraped = [query(ask, each) for each in totals]
        return window["calls"] > 0 and scraped == [[round(window["good"] * window["calls"])], [window["calls"]]]

    assert eventually(agree, 20)


def test_promtool_finds_nothing_wrong_with_the_page(stack: Running, prometheus: Path) -> None:
    """Names, units and help texts are as Prometheus wants them."""
    page = urllib.request.urlopen(stack.metrics, timeout=5).read()
    run = subprocess.run([prometheus / "promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_trace_reaches_into_the_engine(stack: Running, collector: Collector) -> None:
    """The engine's own times of queue, prefill and decode are below the call that asked for them."""
    trace = f"00-{'12' * 16}-{'34' * 8}-01"
    document = pb.Document(path="a.py", split=pb.SplitText(prefix=SOURCE[9000:9700]))
    stack.stub.Complete(pb.CompleteRequest(document=document, trigger=pb.TRIGGER_MANUAL), timeout=30, metadata=(("traceparent", trace),))

    def mine(name: str) -> list[Any]:
        return [span for span in collector.named(name) if span.trace_id.hex() == "12" * 16]

    assert eventually(lambda: bool(mine("engine.prefill") and mine("keyahead.v1.Autocomplete/Complete")), 20)
    (root,) = mine("keyahead.v1.Autocomplete/Complete")
    assert attributes(root)["keyahead.trigger"] == "manual"
    assert {"first_token", "decode", "engine"} <= set(collector.below(root))
    prefill = mine("engine.prefill")[0]
    assert prefill.end_time_unix_nano > prefill.start_time_unix_nano
    assert SOURCE[9000:9030] not in "".join(map(str, collector.spans))


def test_the_status_page_shows_the_real_service(stack: Running, browser: Browser) -> None:
    """A p99, a verdict and the model, in a real browser, without an error on its console."""
    browser.look(1200)
    browser.open(stack.metrics.replace("/metrics", "/"))
    browser.wait_for("document.getElementById('verdict')?.textContent.includes('200 ms')")
    assert "qwen2.5-coder-0.5b" in browser.value("document.getElementById('build').textContent")
    assert "engine ready" in browser.value("document.getElementById('engine').textContent")
    assert browser.errors == []
