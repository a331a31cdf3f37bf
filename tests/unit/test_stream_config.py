"""Which configuration a new stream gets, and which options of an existing one are refused."""

from __future__ import annotations

from typing import Any

import pytest

from natsdisc.store.jetstream.stream_config import (
    MAX_CONSUMERS,
    NewStream,
    StreamOptions,
    data_loss,
    extended,
    not_a_bucket,
)

VALUES, LEASES = "$KV.b.>", "$NATSDISC.LEASE.b.>"
NO_PEERS, NOT_CLUSTERED, NO_MEMORY, SIZE_REQUIRED, SIZE_TOO_LARGE = 10005, 10074, 10028, 10113, 10122


def new(*, leases: bool = True, server: tuple[int, int] = (2, 12), **options: Any) -> NewStream:
    return NewStream("KV_b", (VALUES, LEASES), StreamOptions(**options), server=server, leases=leases)


class TestNewStream:
    @pytest.mark.parametrize(
        ("storage", "leases", "expected"),
        [(None, True, "memory"), (None, False, "file"), ("file", True, "file"), ("memory", False, "memory")],
    )
    def test_storage_follows_the_leases_unless_given(self, storage: Any, leases: bool, expected: str) -> None:
        assert new(leases=leases, storage=storage).config["storage"] == expected

    @pytest.mark.parametrize("refusal", [NO_PEERS, NOT_CLUSTERED])
    def test_three_replicas_are_tried_and_then_one(self, refusal: int) -> None:
        stream = new()
        assert stream.config["num_replicas"] == 3
        assert stream.adjust(refusal)
        assert stream.config["num_replicas"] == 1
        assert not stream.adjust(refusal)

    @pytest.mark.parametrize("refusal", [NO_PEERS, NOT_CLUSTERED])
    def test_replicas_that_the_user_gave_are_kept(self, refusal: int) -> None:
        stream = new(replicas=3)
        assert not stream.adjust(refusal)

    def test_files_are_taken_where_memory_is_not_allowed(self) -> None:
        stream = new()
        assert stream.adjust(NO_MEMORY)
        assert stream.config["storage"] == "file"
        assert not stream.adjust(NO_MEMORY)
        assert not new(storage="memory").adjust(NO_MEMORY)

    def test_a_required_size_is_the_largest_that_is_allowed(self) -> None:
        stream = new(storage="file")
        assert stream.config["max_bytes"] == -1
        assert stream.adjust(SIZE_REQUIRED)
        sizes = [stream.config["max_bytes"]]
        while stream.adjust(SIZE_TOO_LARGE):
            sizes.append(stream.config["max_bytes"])
        assert sizes == sorted(sizes, reverse=True)
        assert 0 < sizes[-1] <= 1_000_000

    def test_every_size_is_tried_in_memory_before_files(self) -> None:
        stream = new()
        stream.adjust(SIZE_REQUIRED)
        while stream.config["storage"] == "memory":
            last = stream.config["max_bytes"]
            assert stream.adjust(SIZE_TOO_LARGE)
        assert last <= 1_000_000

    def test_another_error_changes_nothing(self) -> None:
        before = dict(new().config)
        stream = new()
        assert not stream.adjust(10052)
        assert stream.config == before

    def test_an_old_server_is_not_asked_for_what_it_does_not_know(self) -> None:
        assert "allow_msg_schedules" not in new(server=(2, 11)).config
        assert new(server=(2, 11)).config["subjects"] == [VALUES]
        assert "allow_msg_ttl" not in new(server=(2, 10)).config


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("max_age", 10**9, "max_age"),
        ("max_msgs", 100, "max_msgs"),
        ("max_msgs_per_subject", 5, "history to 1"),
        ("retention", "workqueue", "retention"),
        ("retention", "interest", "retention"),
        ("sealed", True, "sealed"),
        ("no_ack", True, "no_ack"),
        ("allow_msg_counter", True, "allow_msg_counter"),
        ("subject_transform", {"src": ">", "dest": "x.>"}, "subject transform"),
    ],
)
def test_an_option_that_loses_data_is_refused(option: str, value: Any, named: str) -> None:
    safe = dict(new().config)
    assert data_loss(safe, VALUES) is None
    assert named in str(data_loss({**safe, option: value}, VALUES))


def test_discarding_new_values_is_refused_only_for_each_key() -> None:
    config = {**new().config, "discard": "new"}
    assert data_loss(config, VALUES) is None
    assert data_loss({**config, "discard_new_per_subject": True}, VALUES) is not None


def test_a_stream_with_other_subjects_is_no_bucket() -> None:
    assert not_a_bucket({"subjects": [VALUES]}, VALUES) is None
    assert not_a_bucket({"subjects": ["other.>"]}, VALUES) is not None
    assert not_a_bucket({"mirror": {"name": "KV_b"}}, VALUES) is None


def test_extending_keeps_what_is_not_needed_for_leases() -> None:
    before = {"subjects": [VALUES, "more.>"], "max_bytes": 5, "num_replicas": 5, "max_consumers": 7}
    after = extended(before, LEASES)
    assert set(after["subjects"]) == {VALUES, LEASES, "more.>"}
    assert (after["max_bytes"], after["num_replicas"]) == (5, 5)
    assert after["max_consumers"] == MAX_CONSUMERS
    assert extended({**before, "max_consumers": 10**6}, LEASES)["max_consumers"] == 10**6
