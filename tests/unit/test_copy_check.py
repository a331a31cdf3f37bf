"""Which entries of one node's copy are believed, by what the stream's leader has."""

from __future__ import annotations

from natsdisc.store.jetstream.copy_check import CopyCheck

LAST = 100


def delivered(check: CopyCheck, subject: str, sequence: int, value: bytes = b"v") -> bool:
    """Deliver a value; return whether it is reported at once."""
    return check.note(subject) or not check.suspect(subject, sequence, value)


def test_the_same_content_is_no_difference() -> None:
    check = CopyCheck({"a", "b"}, LAST)
    assert delivered(check, "a", 5)
    assert delivered(check, "b", 6)
    assert not check.differs


def test_an_entry_that_the_leader_has_not_is_not_believed() -> None:
    check = CopyCheck({"a"}, LAST)
    assert delivered(check, "a", 5)
    assert not delivered(check, "ghost", 4)
    assert check.differs
    assert check.compare({"a"}) == ({}, {"ghost"}, set())


def test_one_that_is_newer_than_the_answer_is_believed() -> None:
    check = CopyCheck({"a"}, LAST)
    assert delivered(check, "a", 5)
    assert delivered(check, "new", LAST + 1)
    assert not check.differs


def test_one_that_the_leader_has_after_all_is_believed_later() -> None:
    check = CopyCheck(set(), LAST)
    assert not delivered(check, "late", 7, b"value")
    assert check.compare({"late"}) == ({"late": b"value"}, set(), set())


def test_a_suspect_that_is_written_again_or_removed_is_none() -> None:
    check = CopyCheck(set(), LAST)
    assert not delivered(check, "again", 7)
    assert delivered(check, "again", LAST + 1)
    assert not delivered(check, "gone", 8)
    check.drop("gone")
    assert not check.differs


def test_what_the_copy_lacks_is_missing_as_long_as_the_leader_has_it() -> None:
    check = CopyCheck({"a", "b", "c"}, LAST)
    assert delivered(check, "a", 5)
    assert check.compare({"a", "b"}) == ({}, set(), {"b"})
    assert delivered(check, "b", LAST + 3)  # it was only late
    assert check.compare({"a", "b"}) == ({}, set(), set())
