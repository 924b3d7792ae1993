"""The systems that can be asked: keyahead, and others for comparison. Calls block; the generator runs each in a greenlet.

What the others are sent is what their users' plugins send. None of their questions is given up for a newer one, as a late answer still
counts as a prediction; so a slow system is judged generously, and an API charges for every key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import requests
from gevent.lock import Semaphore

from keyahead.loadtest import rpc
from keyahead.loadtest.config import Kind, Target
from keyahead.loadtest.judge import Answer, Ask, Failed, Superseded
from keyahead.loadtest.standin import TRUTH_FIELD
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable with the key of an OpenAI-compatible API that wants one; nobody else is sent it."""
PREFIX_LINES, SUFFIX_LINES = 256, 64
"""What llama.vim sends of the document; the other HTTP systems get the same."""
MAX_TOKENS = 32
"""What an API may answer at most; keyahead's own limit for lines."""
HTTP_TIMEOUT_S = 10.0

System = Callable[[Ask], Answer]
"""Asks for one typist. Raises Superseded and Failed."""
Post = Callable[[str, Mapping[str, Any]], dict[str, Any]]


def connect(target: Target, typist: int, run_id: str) -> System:
    """The system as one typist's editor reaches it, on a connection of its own."""
    if target.kind is Kind.KEYAHEAD:
        return _Keyahead(target.address, f"{run_id}.{typist}")
    key = "" if target.simulated or target.kind is Kind.LLAMA else os.environ.get(KEY_VARIABLE, "")
    post = _poster(target.address.rstrip("/"), key)
    if target.kind is Kind.LLAMA:
        return _OneAtATime(lambda ask: _llama(post, ask))
    body, text = {Kind.OPENAI: (_openai, _choice_text), Kind.VLLM: (_vllm, _choice_text), Kind.CHAT: (_chat, _message_text)}[target.kind]
    path = "/chat/completions" if target.kind is Kind.CHAT else "/completions"

    def ask_api(ask: Ask) -> Answer:
        fields = {"model": target.model, "max_tokens": MAX_TOKENS, "temperature": 0, **body(ask)}
        if target.simulated:
            fields[TRUTH_FIELD] = ask.truth
        reply = post(path, fields)
        usage = reply.get("usage") or {}
        return Answer(text(reply), tokens_in=usage.get("prompt_tokens", 0), tokens_out=usage.get("completion_tokens", 0))

    return ask_api


class _Keyahead:
    def __init__(self, address: str, session_id: str) -> None:
        self._stub = pb_grpc.AutocompleteStub(rpc.channel(address))
        self._session_id = session_id

    def __call__(self, ask: Ask) -> Answer:
        request, metadata = rpc.request(ask, self._session_id), rpc.metadata(self._session_id)
        try:
            return rpc.answer(self._stub.Complete(request, timeout=rpc.TIMEOUT_S, metadata=metadata))
        except grpc.RpcError as error:
            raise rpc.no_answer(error.code()) from None


class _OneAtATime:
    """llama.vim has one question out at a time; when that is answered, it asks the newest. Those between are never asked."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._free = Semaphore(1)
        self._newest = -1

    def __call__(self, ask: Ask) -> Answer:
        self._newest = ask.number
        with self._free:
            if ask.number < self._newest:
                raise Superseded
            return self._system(ask)


def _poster(url: str, key: str) -> Post:
    """Posts JSON below a URL, over kept connections. Raises Failed."""
    session = requests.Session()
    session.trust_env = False  # No proxy between us and what we measure.
    if key:
        session.headers["Authorization"] = f"Bearer {key}"

    def post(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            response = session.post(url + path, json=body, timeout=HTTP_TIMEOUT_S)
            response.raise_for_status()
            reply = response.json()
        except requests.HTTPError as error:
            raise Failed(f"HTTP {error.response.status_code}") from None
        except requests.RequestException as error:
            raise Failed(type(error).__name__) from None
        return reply if isinstance(reply, dict) else {}

    return post


def _window(ask: Ask) -> tuple[str, str]:
    """The lines around the cursor."""
    before = ask.prefix.split("\n")[-1 - PREFIX_LINES :]
    after = ask.suffix.split("\n")[: 1 + SUFFIX_LINES]
    return "\n".join(before), "\n".join(after)


def _openai(ask: Ask) -> dict[str, Any]:
    prompt, suffix = _window(ask)
    return {"prompt": prompt, "suffix": suffix}


def _vllm(ask: Ask) -> dict[str, Any]:
    prompt, suffix = _window(ask)
    return {"prompt": f"<|fim_prefix|>{prompt}<|fim_suffix|>{suffix}<|fim_middle|>"}


def _chat(ask: Ask) -> dict[str, Any]:
    prompt, suffix = _window(ask)
    rules = "You complete code. Answer with the text to insert at <CURSOR/> and nothing else: no explanation, no code fence."
    return {"messages": [{"role": "system", "content": rules}, {"role": "user", "content": f"{prompt}<CURSOR/>{suffix}"}]}


def _choice_text(reply: Mapping[str, Any]) -> str:
    return str(reply["choices"][0].get("text") or "") if reply.get("choices") else ""


def _message_text(reply: Mapping[str, Any]) -> str:
    return str(reply["choices"][0]["message"].get("content") or "") if reply.get("choices") else ""


def _llama(post: Post, ask: Ask) -> Answer:
    """llama.vim's layout: whole lines as prefix, and the current line as prompt, so that typing in it keeps the KV of all else."""
    before, after = _window(ask)
    whole_lines, newline, line = before.rpartition("\n")
    body = {
        "input_prefix": whole_lines + newline,
        "input_suffix": after + "\n",
        "input_extra": [],
        "prompt": line,
        "n_predict": 128,
        "n_indent": len(line) - len(line.lstrip()),
        "top_k": 40,
        "top_p": 0.9,
        "samplers": ["top_k", "top_p", "infill"],
        "stream": False,
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 250,
    }
    reply = post("/infill", body)
    return Answer(
        str(reply.get("content", "")), tokens_in=int(reply.get("tokens_evaluated", 0)), tokens_out=int(reply.get("tokens_predicted", 0))
    )
