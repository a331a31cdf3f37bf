"""How buckets are made and named."""

from __future__ import annotations

import math
from typing import Any

import pytest
from nats.aio.client import Client

from natsdisc.errors import InvalidNameError, InvalidValueError
from natsdisc.store.jetstream.api import JetStreamApi
from natsdisc.store.jetstream.requester import Requester
from natsdisc.store.jetstream.servertime import ServerTime
from natsdisc.store.jetstream.stream import Stream
from natsdisc.store.jetstream.stream_config import StreamOptions


def stream(bucket_prefix: str = "") -> Stream:
    options = StreamOptions(bucket_prefix=bucket_prefix)
    return Stream(JetStreamApi(Requester(Client())), "v1_instances", options, ServerTime())


class TestOptions:
    def test_what_is_usual(self) -> None:
        options = StreamOptions()
        assert (options.replicas, options.storage, options.bucket_prefix) == (None, None, "")
        assert options.tombstone_ttl == 300.0

    @pytest.mark.parametrize("replicas", [0, 6, -1, 1.5, "3"], ids=repr)
    def test_replicas_are_one_to_five(self, replicas: Any) -> None:
        with pytest.raises(InvalidValueError, match="replicas"):
            StreamOptions(replicas=replicas)
        assert [StreamOptions(replicas=count).replicas for count in range(1, 6)] == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("storage", ["", "disk", "File", 1], ids=repr)
    def test_storage_is_file_or_memory(self, storage: Any) -> None:
        with pytest.raises(InvalidValueError, match="storage"):
            StreamOptions(storage=storage)
        assert StreamOptions(storage="memory").storage == "memory"

    @pytest.mark.parametrize("seconds", [0, 0.999, -1, math.nan, -math.inf, math.inf, 31_536_001, True, "9"])
    def test_a_tombstone_stays_for_a_second_to_a_year(self, seconds: Any) -> None:
        with pytest.raises(InvalidValueError, match="tombstone_ttl"):
            StreamOptions(tombstone_ttl=seconds)
        assert [StreamOptions(tombstone_ttl=ttl).tombstone_ttl for ttl in (1, 31_536_000)] == [1, 31_536_000]

    @pytest.mark.parametrize("prefix", ["a.b", "a b", "*", ">", "a/b", "é", "$KV", "a\n", "=41"], ids=repr)
    def test_a_prefix_is_part_of_a_bucket_name(self, prefix: str) -> None:
        with pytest.raises(InvalidNameError, match="bucket_prefix"):
            StreamOptions(bucket_prefix=prefix)

    @pytest.mark.parametrize("prefix", ["prod", "Prod-2_eu", ""])
    def test_a_prefix_may_be_plain(self, prefix: str) -> None:
        assert StreamOptions(bucket_prefix=prefix).bucket_prefix == prefix


class TestNames:
    def test_without_a_prefix(self) -> None:
        assert (stream().bucket, stream().name) == ("v1_instances", "KV_v1_instances")
        assert stream().subject_prefix == "$KV.v1_instances."
        assert stream().lease_prefix == "$NATSDISC.LEASE.v1_instances."

    def test_a_prefix_makes_a_registry_of_its_own(self) -> None:
        assert (stream("prod").bucket, stream("prod").name) == ("prod_v1_instances", "KV_prod_v1_instances")
        assert stream("prod").subject_prefix == "$KV.prod_v1_instances."
        assert stream("prod").lease_prefix == "$NATSDISC.LEASE.prod_v1_instances."

    def test_no_kv_client_sees_a_lease(self) -> None:
        assert not stream().lease_prefix.startswith("$KV.")

    def test_nothing_is_known_before_it_was_looked_at(self) -> None:
        assert not stream().known
        assert not stream().leases
        assert not stream().ttls
