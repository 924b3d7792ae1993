"""The quick model is really converted: interrupted, gone on with, whole, correct, and without a word to anybody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gguf
import msgspec
import numpy as np
import psutil
import pytest

from keyahead.engine import catalogue, fetch
from keyahead.engine.cpu import convert
from keyahead.engine.store import SetupError, SilentProgress

pytestmark = pytest.mark.timeout(1200)
MODEL = catalogue.get("smollm2-135m")

INTERRUPTED = """import sys
from pathlib import Path
from keyahead.engine import catalogue, store
from keyahead.engine.cpu import convert
convert.convert(catalogue.get("smollm2-135m"), Path(sys.argv[1]), store.RichProgress())
"""


class Titles(SilentProgress):
    """A progress that remembers which steps there were."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    @contextmanager
    def step(self, title: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
        self.steps.append(title)
        yield lambda _: None


@dataclass(frozen=True)
class Conversion:
    """What a conversion that was killed and gone on with left behind."""

    folder: Path
    home: Path
    steps: list[str]


@pytest.fixture(name="weights", scope="module")
def fetched_weights() -> Path:
    """The published file, from the user's own cache."""
    return fetch.fetch(MODEL, progress=SilentProgress())


@pytest.fixture(name="conversion", scope="module")
def resumed_conversion(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conversion]:
    """Convert in a new cache and a new home; kill the first try when the second phase is done, and finish it with a second."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("KEYAHEAD_CACHE", str(home / "cache"))
        command = [sys.executable, "-c", INTERRUPTED, str(weights)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            assert process.stderr
            assert any(line.startswith("Building the OpenVINO model: done") for line in process.stderr)
            process.stderr.readline()  # the third phase has begun
            os.killpg(process.pid, signal.SIGKILL)
        titles = Titles()
        yield Conversion(convert.convert(MODEL, weights, titles), home, titles.steps)


def test_finished_phases_are_not_repeated(conversion: Conversion) -> None:
    """The second try does the third phase only, perhaps after waiting until the killed processes are gone."""
    assert [step for step in conversion.steps if not step.startswith("Waiting")] == ["Compressing smollm2-135m to INT8"]


def test_the_result_is_whole_and_nothing_else_is_left(conversion: Conversion) -> None:
    """All files are there with a manifest of where they come from; the work folder and the killed process's leavings are gone."""
    manifest = json.loads((conversion.folder / "manifest.json").read_text())
    assert manifest["source_sha256"] == MODEL.sha256
    assert manifest["versions"].keys() == {"openvino", "openvino-genai", "openvino-tokenizers", "nncf", "gguf"}
    assert "int8" in manifest["settings"]["weights"]
    assert {path.name for path in conversion.folder.iterdir()} == {*manifest["files"], "manifest.json"}
    assert {"openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml", "tokenizer.json"} < manifest["files"].keys()
    assert sorted(path.name for path in conversion.folder.parent.iterdir()) == [conversion.folder.name, f"{conversion.folder.name}.lock"]


def test_a_second_call_does_nothing(conversion: Conversion, weights: Path) -> None:
    """What is there is found, without a step and without the weights."""
    titles = Titles()
    assert convert.find(MODEL) == conversion.folder
    assert convert.convert(MODEL, weights.with_name("none"), titles) == conversion.folder
    assert titles.steps == []


def test_nobody_is_told(conversion: Conversion) -> None:
    """OpenVINO and NNCF leave no trace of their usage reports in the home folder: they were not sent."""
    assert not (conversion.home / "intel").exists()


def test_all_weights_are_in_eight_bits(conversion: Conversion) -> None:
    """Seven matrices a layer and the embeddings are INT8; what is left in floating point is less than one part in a hundred."""
    import openvino  # noqa: PLC0415 - slow

    graph = openvino.Core().read_model(conversion.folder / "openvino_model.xml")
    sizes: dict[str, list[int]] = {}
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Constant":
            sizes.setdefault(node.get_element_type().get_type_name(), []).append(int(np.prod(node.get_output_shape(0))))
    matrices = [size for size in sizes["u8"] if size > MODEL.vocab]
    assert len(matrices) == 7 * MODEL.layers + 1
    assert sum(sizes.get("f16", [])) + sum(sizes.get("f32", [])) < sum(matrices) / 100


def test_the_model_still_knows_what_it_knew(conversion: Conversion) -> None:
    """Greedy decoding of the converted model gives the capital of France and a recursive function: no matrix was permuted or lost."""
    import openvino_genai  # noqa: PLC0415 - slow

    pipeline = openvino_genai.LLMPipeline(str(conversion.folder), "CPU")
    greedy = openvino_genai.GenerationConfig(max_new_tokens=32, do_sample=False, apply_chat_template=False)
    assert "Paris" in pipeline.generate("The capital of France is", greedy)
    assert "return fibonacci(n-1) +" in pipeline.generate("def fibonacci(n):\n", greedy)


def test_a_short_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a missing or short file, or a broken manifest, is not taken for a converted model."""
    monkeypatch.setenv("KEYAHEAD_CACHE", str(tmp_path))
    folder = convert.folder_of(MODEL)
    folder.mkdir(parents=True)
    for manifest, content, whole in (('{"files": {"a": 3}}', b"abc", True), ('{"files": {"a": 3}}', b"ab", False), ("{", b"abc", False)):
        (folder / "manifest.json").write_text(manifest)
        (folder / "a").write_bytes(content)
        assert convert.find(MODEL) == (folder if whole else None)


def test_other_weights_are_another_folder() -> None:
    """The folder's name depends on the source, so that changed weights are converted anew."""
    other = msgspec.structs.replace(MODEL, sha256="0" * 64)
    assert convert.folder_of(other) != convert.folder_of(MODEL)


def test_a_gpu_model_is_refused(weights: Path) -> None:
    """A model for GPUs is refused by name, whatever the file."""
    with pytest.raises(SetupError, match=r"qwen2\.5-coder-7b runs on GPUs only"):
        convert.convert(catalogue.get("qwen2.5-coder-7b"), weights, SilentProgress())


@pytest.fixture(name="empty_cache")
def new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with nothing in it."""
    monkeypatch.setenv("KEYAHEAD_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("empty_cache")
def test_the_wrong_file_is_refused_before_any_work(weights: Path) -> None:
    """Weights of another architecture are refused with both names."""
    other = msgspec.structs.replace(MODEL, architecture=catalogue.Architecture.QWEN2)
    titles = Titles()
    with pytest.raises(SetupError, match="holds a llama model but smollm2-135m is qwen2"):
        convert.convert(other, weights, titles)
    assert titles.steps == []


@pytest.mark.parametrize(("columns", "complaint"), [(1 << 50, "of disk but"), (None, "of memory but")], ids=["disk", "memory"])
def test_too_little_disk_or_memory_is_said_before_any_work(empty_cache: Path, columns: int | None, complaint: str) -> None:
    """A model that this machine cannot hold is refused with both sizes, and nothing is begun."""
    if columns is None:  # more than the memory, less than the disk, if that is possible here
        free = psutil.virtual_memory().available
        if psutil.disk_usage(str(empty_cache)).free < free:
            pytest.skip("this machine has more free memory than disk")
        columns = free // 32 // 7
    path, titles = empty_cache / "huge.gguf", Titles()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor_info("huge", (32, columns), np.dtype(np.float16), 64 * columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with pytest.raises(SetupError, match=complaint):
        convert.convert(MODEL, path, titles)
    assert titles.steps == []
    assert not list(empty_cache.rglob("*.work"))
