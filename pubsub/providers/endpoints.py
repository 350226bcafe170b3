"""The endpoints of a provider: one, several, or a callable that returns either at each attempt.

One attempt to connect tries all endpoints; see `mqttws.Client`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from pubsub.errors import ProviderError

__all__ = ["EndpointOption", "Urls", "ask", "ask_async", "freeze", "given", "one_or_all"]

Urls = str | list[str]
EndpointOption = str | Sequence[str] | Callable[[], str | Sequence[str] | Awaitable[str | Sequence[str]]]


def freeze(endpoint: Any) -> Any:
    """Return the endpoints, copied so that the caller can change a list afterwards.

    Raises:
        TypeError: The argument is not an endpoint.
    """
    if endpoint is None or isinstance(endpoint, str) or callable(endpoint):
        return endpoint
    if not isinstance(endpoint, Sequence) or isinstance(endpoint, bytes):
        raise TypeError(f"aws_pubsub_endpoint is a str, several of them, or a callable, not {_kind(endpoint)}")
    return tuple(endpoint)


def given(name: str, endpoint: Any, example: str) -> list[str]:
    """Return the endpoints of a provider.

    Args:
        name: The name of the provider.
        endpoint: The argument or the setting; not a callable.
        example: An example of an endpoint, for the error message.

    Raises:
        ProviderError: There is no endpoint, or one is not a str.
    """
    if not endpoint:
        raise ProviderError(
            f"{name} has no endpoint: pass aws_pubsub_endpoint to it or to configure, for example {example!r}"
        )
    endpoints = [endpoint] if isinstance(endpoint, str) else list(endpoint)
    for each in endpoints:
        if not isinstance(each, str) or not each:
            raise ProviderError(f"{name}: one of its endpoints is {_kind(each)}; expected a URL such as {example!r}")
    return endpoints


def one_or_all(urls: list[str]) -> Urls:
    """Return the URL if there is only one, else all."""
    return urls[0] if len(urls) == 1 else urls


def ask(name: str, source: Callable[[], Any]) -> Urls:
    """Call a callable endpoint, and return its URLs.

    Raises:
        ProviderError: It returned something else.
    """
    return _checked(name, source())


async def ask_async(name: str, source: Callable[[], Any]) -> Urls:
    """Do the same as `ask` without blocking: call the callable in a thread, or await it.

    Raises:
        ProviderError: It returned something else.
    """
    from asyncio import to_thread  # not imported by programs that use only threads

    answer = source() if iscoroutinefunction(source) else await to_thread(source)
    return _checked(name, await answer if isawaitable(answer) else answer)


def _checked(name: str, answer: Any) -> Urls:
    if isinstance(answer, str):
        return str(answer)
    if isawaitable(answer):
        if isinstance(answer, Coroutine):
            answer.close()  # prevents the warning about a coroutine that was never awaited
        raise ProviderError(f"{name}: aws_pubsub_endpoint returned an awaitable, which only pubsub.aio awaits")
    if not isinstance(answer, Sequence) or isinstance(answer, bytes):
        raise ProviderError(f"{name}: aws_pubsub_endpoint returned {_kind(answer)}; expected a URL, or several")
    if not answer or not all(isinstance(each, str) for each in answer):
        raise ProviderError(f"{name}: aws_pubsub_endpoint returned a list that is empty, or not only of str")
    return [str(each) for each in answer]


def _kind(value: Any) -> str:
    """Return what a value is, without showing it: a signed URL is a credential."""
    return "empty" if value == "" else f"a {type(value).__name__}"
