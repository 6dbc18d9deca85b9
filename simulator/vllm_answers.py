"""What the pretend model says, in the shapes of the OpenAI API: the same prompt always gets the same answer."""

from __future__ import annotations

import binascii
import os
import time

from simulator import lean_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WORDS = """
    the a this one each file test branch worker queue lease model server token layer graph plan step result value
    key index cache retry signal event clock state log line patch review spec gate stream probe reads writes keeps
    moves waits ends starts holds checks finds returns follows before after under over within without again never
    always
""".split()  # noqa: SIM905 - a table of words reads better than quotes around each
# OpenAI's default for /v1/completions; a chat answer ends by itself
_COMPLETION_TOKENS = 16


class BadRequest(Exception):
    """The request is refused with ``status``; the message is vLLM's, or says what the simulation does not do."""

    def __init__(
        self, message: str, status: int = 400, kind: str = "BadRequestError", parameter: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": parameter, "code": status}}


class Answer:
    """One answer: its tokens (text pieces), which ones the engine has produced so far, and how to show them."""

    def __init__(self, body: dict[str, Any], *, chat: bool, model: str, context: int, auto_tools: bool) -> None:
        self.chat = chat
        self.model = model
        self.identity = ("chatcmpl-" if chat else "cmpl-") + os.urandom(16).hex()
        self.created = int(time.time())
        self.stream = bool(body.get("stream"))
        self.include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        if body.get("n", 1) != 1:
            raise BadRequest("n: the simulation gives one choice only", parameter="n")
        prompt = _chat_prompt(body) if chat else _prompt(body)
        self.prompt_tokens = 1 + len(prompt.encode()) // 4
        self.tool = _tool_call(body, prompt, auto_tools=auto_tools) if chat else None
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or (None if chat else _COMPLETION_TOKENS)
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise BadRequest(f"max_tokens must be at least 1, got {limit}.", parameter="max_tokens")
        room = context - self.prompt_tokens
        if room < 1 or (limit or 1) > room:
            raise BadRequest(
                f"This model's maximum context length is {context} tokens. However, you requested "
                f"{self.prompt_tokens + (limit or 1)} tokens ({self.prompt_tokens} in the messages, {limit or 1} in "
                "the completion). Please reduce the length of the messages or completion."
            )
        tokens = [self.tool["function"]["arguments"]] if self.tool else _tokens(prompt, body)
        if body.get("ignore_eos") and limit:
            while len(tokens) < limit:
                tokens += tokens
        self.tokens = tokens[: min(limit or room, room)]
        self.finish_reason = "length" if len(self.tokens) < len(tokens) else "tool_calls" if self.tool else "stop"
        self.produced = 0

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of the prompt and of the answer so far."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.produced,
            "total_tokens": self.prompt_tokens + self.produced,
        }

    def whole(self) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        text = "".join(self.tokens)
        choice: dict[str, Any] = {
            "index": 0,
            "logprobs": None,
            "finish_reason": self.finish_reason,
            "stop_reason": None,
        }
        if not self.chat:
            choice["text"] = text
        else:
            content = None if self.tool else text
            choice["message"] = {
                "role": "assistant",
                "content": content,
                "tool_calls": [self.tool] if self.tool else [],
            }
        return self._envelope([choice], self.usage, part=False)

    def events(self, until: int) -> list[dict[str, Any]]:
        """Return what a streaming client gets now that ``until`` tokens are there."""
        events: list[dict[str, Any]] = []
        if self.chat and not self.produced:
            events.append(self._part({"role": "assistant", "content": ""}, None))
        for place in range(self.produced, until):
            finish = self.finish_reason if place + 1 == len(self.tokens) else None
            delta: dict[str, Any] = {"content": self.tokens[place]}
            if self.tool:
                delta = {"tool_calls": [{"index": 0, **self.tool}]}
            events.append(self._part(delta, finish))
        self.produced = until
        if until == len(self.tokens) and self.include_usage:
            events.append(self._envelope([], self.usage, part=True))
        return events

    def _part(self, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
        if self.chat:
            choice["delta"] = delta
        else:
            choice["text"] = delta["content"]
        return self._envelope([choice], None, part=True)

    def _envelope(self, choices: list[dict[str, Any]], usage: dict[str, int] | None, *, part: bool) -> dict[str, Any]:
        kind = "text_completion" if not self.chat else "chat.completion.chunk" if part else "chat.completion"
        body = {
            "id": self.identity,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "simulated",
            "choices": choices,
        }
        return body if part and usage is None else {**body, "usage": usage}


def _prompt(body: dict[str, Any]) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        prompt = " ".join(str(token) for token in prompt)
    if not isinstance(prompt, str):
        raise BadRequest("prompt: one text or one list of token ids is needed", parameter="prompt")
    return prompt


def _chat_prompt(body: dict[str, Any]) -> str:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise BadRequest("messages: a list of at least one message is needed", parameter="messages")
    return "\n".join(f"{message.get('role')}: {_content(message)}" for message in messages)


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content)
    return str(content or "")


def _tokens(prompt: str, body: dict[str, Any]) -> list[str]:
    """Return the answer to ``prompt``: what was asked, then 16 to 47 words that its checksum chooses."""
    seed = binascii.crc32(prompt.encode())
    asked = prompt.rpartition("\n")[2].partition(": ")[2] or prompt
    text = f'Simulated answer {seed:08x} to "{" ".join(asked.split()[:12])}":'
    value = seed
    for _ in range(16 + seed % 32):
        value = (value * 1_103_515_245 + 12_345) & 0x7FFFFFFF
        text += " " + _WORDS[(value >> 16) % len(_WORDS)]
    text += "."
    stops = body.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.partition(stop)[0]
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]


def _tool_call(body: dict[str, Any], prompt: str, *, auto_tools: bool) -> dict[str, Any] | None:
    """Return a call of a tool where one is asked for, None for a text answer.

    A tool is called when ``tool_choice`` says so, and with ``auto`` when the last message is a user's that names it.
    """
    tools = body.get("tools") or []
    choice = body.get("tool_choice", "auto" if tools else "none")
    if choice == "none" or not tools:
        return None
    if choice == "auto" and not auto_tools:
        raise BadRequest('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    last = body["messages"][-1]
    names = {tool["function"]["name"]: tool["function"] for tool in tools}
    if isinstance(choice, dict):
        wanted = choice["function"]["name"]
    elif choice == "required":
        wanted = next(iter(names))
    else:
        named = [name for name in names if last.get("role") == "user" and name in _content(last)]
        wanted = named[0] if named else None
    if wanted is None:
        return None
    if wanted not in names:
        raise BadRequest(f"tool_choice names the tool {wanted!r}, which is not in tools", parameter="tool_choice")
    call = {"name": wanted, "arguments": lean_json.dump(_arguments(names[wanted].get("parameters") or {}, last))}
    return {"id": f"chatcmpl-tool-{binascii.crc32(prompt.encode()):08x}", "type": "function", "function": call}


def _arguments(schema: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Return arguments that fit the required properties of ``schema``."""
    values = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}, "null": None}
    properties = schema.get("properties") or {}
    return {
        name: (
            properties.get(name, {}).get("enum")
            or [values.get(properties.get(name, {}).get("type"), _content(message))]
        )[0]
        for name in schema.get("required") or properties
    }
