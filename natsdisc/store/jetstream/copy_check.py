"""A snapshot of one node's copy, held against what the stream's leader has.

A copy can hold entries that its leader removed long ago, and lack others: nats-server compares no contents.
So no copy is believed about what is there, or absent, before its leader was asked.
"""

from __future__ import annotations

__all__ = ["CopyCheck"]


class CopyCheck:
    """The subjects that the leader had when its last sequence was `last`, against those of a snapshot."""

    def __init__(self, subjects: set[str], last: int) -> None:
        self._subjects = subjects
        self._last = last
        self._unseen = set(subjects)
        # Values that the leader does not have, by their subjects.
        self._suspects: dict[str, bytes] = {}

    @property
    def differs(self) -> bool:
        """Whether there is a difference that has to be looked at."""
        return bool(self._unseen or self._suspects)

    def note(self, subject: str) -> bool:
        """Note that `subject` was delivered; return whether the leader has it."""
        self._unseen.discard(subject)
        return subject in self._subjects

    def suspect(self, subject: str, sequence: int, value: bytes) -> bool:
        """Return whether a value that the leader does not have must not be believed yet, and keep it then.

        One that was stored after the leader answered is newer than the answer.
        """
        if sequence > self._last:
            self._suspects.pop(subject, None)
            return False
        self._suspects[subject] = value
        return True

    def drop(self, subject: str) -> None:
        """Note that `subject` was removed."""
        self._suspects.pop(subject, None)

    def compare(self, subjects: set[str]) -> tuple[dict[str, bytes], set[str], set[str]]:
        """Hold the difference against what the leader has now.

        Returns the suspects that the leader has after all, the others, and the subjects that are missing.
        """
        believed = {subject: value for subject, value in self._suspects.items() if subject in subjects}
        return believed, self._suspects.keys() - subjects, self._unseen & subjects
