"""Calling observers (metrics, logs, the dashboard): their faults do not reach what they observe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from loguru import logger

T = TypeVar("T")


def tell(observers: Iterable[Callable[[T], object]], record: T) -> None:
    """Call each observer with ``record``; one that raises is logged, and the next one is called."""
    for observer in observers:
        try:
            observer(record)
        except Exception as error:
            logger.opt(exception=error).error("an observer of {} failed", type(record).__name__)


def tell_all(callbacks: Iterable[Callable[[], None]], what: str) -> None:
    """As :func:`tell`, for callbacks that hear nothing but that ``what`` has happened."""
    for callback in callbacks:
        try:
            callback()
        except Exception as error:
            logger.opt(exception=error).error("an observer of {} failed", what)
