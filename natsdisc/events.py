"""The log events of a registration's life, in one table: name, level and text."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from . import log

__all__ = ["EVENTS", "LogEvent", "emit"]

_log = log.logger(__name__)
_DEBUG, _INFO, _WARNING, _ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One kind of line.

    `name` is the record's `natsdisc_event`. `text` says what happened to one instance; `many` says it of
    several, for lines that are gathered. Both name the fields that they show.
    """

    name: str
    level: int
    text: str
    many: str = ""


def _again(name: str, what: str) -> LogEvent:
    return LogEvent(name, _WARNING, f"%(id)s {what}", f"%(count)d registrations (one is %(id)s): each {what}")


EVENTS = {
    event.name: event
    for event in (
        LogEvent(
            "recovering",
            _WARNING,
            "the lease of %(id)s is not renewed, and others may see it expire until this passes: %(error)s",
            "the leases of %(count)d registrations (one is %(id)s) are not renewed, and others may see them "
            "expire until this passes: %(error)s",
        ),
        LogEvent(
            "unrenewable",
            _ERROR,
            "the lease of %(id)s is not renewed any more, because the connection was closed for good: "
            "%(error)s",
            "the leases of %(count)d registrations (one is %(id)s) are not renewed any more, because the "
            "connection was closed for good: %(error)s",
        ),
        LogEvent(
            "active_again",
            _INFO,
            "%(id)s is active again",
            "%(count)d registrations (one is %(id)s) are active again",
        ),
        LogEvent(
            "pending",
            _WARNING,
            "%(id)s is not registered yet, and is tried until it is: %(error)s",
            "%(count)d instances (one is %(id)s) are not registered yet, and are tried until they are: "
            "%(error)s",
        ),
        LogEvent(
            "announced",
            _INFO,
            "%(id)s is registered now",
            "%(count)d instances (one is %(id)s) are registered now",
        ),
        _again("reregistered_expired", "expired, and is registered again: something held it up for a ttl"),
        _again("reregistered_removed", "was removed by another client, and is registered again"),
        _again("reregistered_overwritten", "was overwritten by another client, and is registered again"),
        _again(
            "reregistered_missing", "vanished, and is registered again: its bucket was emptied or made anew"
        ),
        LogEvent(
            "updated_by_another",
            _INFO,
            "%(id)s was updated by another client; its owner goes on with that",
            "%(count)d registrations (one is %(id)s) were updated by other clients; their owner goes on with "
            "that",
        ),
        LogEvent(
            "drained_by_another",
            _INFO,
            "%(id)s was drained by another client",
            "%(count)d registrations (one is %(id)s) were drained by other clients",
        ),
        LogEvent("lost", _ERROR, "%(id)s is lost: another owner holds this id"),
        LogEvent("failed", _ERROR, "%(id)s cannot be registered, and is not tried again: %(error)s"),
        LogEvent("unhealthy", _WARNING, "the health check of %(id)s failed, it is unhealthy now: %(error)s"),
        LogEvent("healthy", _INFO, "the health check of %(id)s succeeds again"),
        LogEvent("check_failed", _ERROR, "%(id)s ended because of a bug: %(error)s"),
        LogEvent("status_not_set", _DEBUG, "could not set the status of %(id)s: %(error)s"),
        LogEvent(
            "kept", _INFO, "left %(count)d registrations (one is %(id)s) for a restart, to their leases"
        ),
        LogEvent("taken_over", _INFO, "%(id)s was taken over before it was unregistered"),
        LogEvent("not_renewed", _DEBUG, "no renewal of %(id)s: %(error)s"),
        LogEvent("not_signed", _DEBUG, "%(id)s could not be signed again: %(error)s"),
        LogEvent("callback_failed", _ERROR, "%(callback)s failed for %(id)s: %(error)s"),
        LogEvent(
            "not_unregistered",
            _WARNING,
            "%(count)d registrations could not be unregistered; only a lease ends them now: %(error)s",
        ),
    )
}


def emit(name: str, *, exc_info: BaseException | None = None, **fields: object) -> None:
    """Write the line of the event `name`; `fields` are those that its text shows.

    >>> emit("lost", id="shop/cart/checkout/7")
    """
    event = EVENTS[name]
    text = event.many if event.many and fields.get("count", 1) != 1 else event.text
    _log.log(event.level, text, fields, exc_info=exc_info, extra=log.fields(name, **fields))
