"""A conversation with the proxy: what goes wrong in it becomes one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Any, Final

from comfy_proxy.cli.command import EXIT_FAILED, EXIT_USAGE, CommandError, Values
from comfy_proxy.cli.proxy_address import ProxyAddress, find_proxy, key_wanted
from comfy_proxy.client.answers import NOT_THE_PROXY
from comfy_proxy.client.errors import ApiError, ClientError, InvalidValueError, UnreachableError
from comfy_proxy.client.operations import ask
from comfy_proxy.client.policy import Policy
from comfy_proxy.client.synchronous import Client

AT_ONCE: Final = Policy(patience_s=0.5, max_wait_s=0.0)
"""For questions: whoever typed one would rather be told now than wait."""
COMPLETION: Final = Policy(patience_s=0.0, max_wait_s=0.0, answer_timeout_s=1.0)
"""For the words that a shell offers: it stands still meanwhile."""


@contextmanager
def talk(values: Values, policy: Policy = AT_ONCE) -> Iterator[Client]:
    """A client of the proxy that the values name. Raises CommandError for all that it raises."""
    proxy = find_proxy(values)
    with (
        told_in_words(proxy),
        Client(proxy.url, proxy.api_key, policy=policy, verify=proxy.verify) as client,
    ):
        yield client


@contextmanager
def told_in_words(proxy: ProxyAddress) -> Iterator[None]:
    """A ClientError becomes a CommandError."""
    try:
        yield
    except ClientError as error:
        raise command_error(error, proxy) from None


def command_error(error: ClientError, proxy: ProxyAddress) -> CommandError:
    """With exit code 2 if it is a field of the request that is wrong, or cannot be sent."""
    wrong = isinstance(error, InvalidValueError) or (
        isinstance(error, ApiError) and error.status == 400 and error.field is not None
    )
    return CommandError(sentence(error, proxy), code=EXIT_USAGE if wrong else EXIT_FAILED)


def sentence(error: ClientError, proxy: ProxyAddress) -> str:
    """What is wrong, and what can be done about it."""
    if isinstance(error, UnreachableError):
        return f"{error.message} Is the proxy running there? (--url names another address)"
    if error.code == NOT_THE_PROXY:
        return f"{error.message} (It is {proxy.url}; --url names another one.)"
    if not isinstance(error, ApiError):
        return error.message
    if error.status == 401:
        return key_wanted(proxy)
    found_by = f" (request {error.request_id})" if error.status >= 500 and error.request_id else ""
    return f"{error.message}{found_by}"


def nearest(name: str, known: Iterable[str], what: str) -> CommandError:
    """The error for a name that there is not, with the one that was probably meant."""
    names = list(known)
    near = get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(names) or 'none'}."
    return CommandError(f"there is no {what} {name!r}; {hint}", code=EXIT_USAGE)


def workflow_names(values: Values) -> list[str]:
    """For the shell's completion, as what follows: those of the proxy that the line or the
    environment names, none if it does not answer."""
    return _offered(values, lambda client: [one.name for one in client.workflows()])


def job_ids(values: Values) -> list[str]:
    return _offered(values, lambda client: [one.job_id for one in client.jobs()])


def instance_names(values: Values) -> list[str]:
    """The name of each instance that has one, of others the number."""

    def read(told: Any) -> list[str]:
        return [str(one["name"] or one["id"]) for one in told["instances"]]

    return _offered(
        values, lambda client: client.perform(ask("api/instances", read, client.policy))
    )


def _offered(values: Values, words: Callable[[Client], list[str]]) -> list[str]:
    with suppress(Exception), talk(values, COMPLETION) as client:
        return words(client)
    return []
