"""When to renew, when lost, what to do next: the numbered rules of the module, and what always leases."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from natsdisc.lease import (
    MAX_TTL,
    Answer,
    LeaseState,
    State,
    Step,
    apply,
    read_ttl,
    renewed_at_once,
    replaced,
    started,
    step,
    unheard,
    write_ttl,
)

TTL = 9.0
REVISION = 5
SENT = 100.0
FIRST_RETRY = 0.25

chances = st.floats(0.0, 1.0)
ttls = st.none() | st.floats(1.0, 3600.0)


def fresh(ttl: float | None = TTL, chance: float = 0.0) -> LeaseState:
    return started(ttl, REVISION, SENT, chance)


def answered(
    lease: LeaseState,
    answer: Answer,
    *,
    revision: int = REVISION,
    sent: float = SENT + 3,
    now: float = SENT + 3.5,
    chance: float = 0.0,
) -> LeaseState:
    return apply(lease, answer, revision, sent, now, chance)


class TestRenewing:
    """Rule 1."""

    def test_a_lease_is_renewed_a_third_of_its_ttl_after_it_was_sent(self) -> None:
        assert fresh().due == SENT + TTL / 3
        assert step(fresh()) is Step.RENEW
        assert fresh().state is State.ACTIVE

    def test_chance_makes_it_a_little_earlier(self) -> None:
        assert SENT + TTL / 3 * 0.8 < fresh(chance=1.0).due < fresh(chance=0.5).due < SENT + TTL / 3

    def test_it_counts_from_sending_and_not_from_the_answer(self) -> None:
        lease = answered(fresh(), Answer.RENEWED, sent=SENT + 3, now=SENT + 5)
        assert lease.due == SENT + 3 + TTL / 3
        assert lease.renewed == SENT + 3

    def test_without_a_ttl_there_is_nothing_to_renew(self) -> None:
        lease = fresh(ttl=None)
        assert lease.due == math.inf
        assert step(lease) is Step.NOTHING
        assert answered(lease, Answer.RENEWED).due == math.inf

    @given(ttl=st.floats(1.0, 3600.0), sent=st.floats(0, 1e6), chance=chances)
    def test_two_renewals_fit_into_a_ttl_before_it_ends(self, ttl: float, sent: float, chance: float) -> None:
        assert sent < started(ttl, 1, sent, chance).due <= sent + ttl / 3


class TestSilence:
    """Rule 2."""

    def test_a_silent_renewal_is_sent_again_soon_and_less_often_in_a_long_outage(self) -> None:
        lease, distances = fresh(ttl=60.0), []
        for at in range(120):
            now = SENT + 20 + at
            lease = answered(lease, Answer.SILENT, now=now)
            distances.append(lease.due - now)
            assert step(lease) is Step.RENEW
        assert distances[::20] == [FIRST_RETRY, 0.5, 1.0, 2.0, 4.0, 4.0]
        assert distances == sorted(distances)

    def test_chance_makes_it_up_to_twice_as_soon(self) -> None:
        assert answered(fresh(), Answer.SILENT, chance=1.0).due == SENT + 3.5 + FIRST_RETRY / 2

    def test_it_is_never_later_than_the_usual_renewal(self) -> None:
        lease = fresh(ttl=1.5)
        for _ in range(60):
            lease = answered(lease, Answer.SILENT, now=SENT)
        assert lease.due == SENT + 0.5

    def test_it_is_no_loss(self) -> None:
        lease = answered(fresh(), Answer.SILENT, now=SENT + TTL - 0.001)
        assert (lease.state, lease.gone, lease.revision) == (State.ACTIVE, False, REVISION)

    def test_after_a_ttl_without_an_answer_it_is_recovering_and_still_renewed(self) -> None:
        lease = answered(fresh(), Answer.SILENT, now=SENT + TTL)
        assert (lease.state, lease.gone) == (State.RECOVERING, False)
        assert step(lease) is Step.RENEW

    def test_an_answer_ends_it(self) -> None:
        lease = answered(fresh(), Answer.SILENT, now=SENT + TTL)
        lease = answered(lease, Answer.RENEWED, sent=SENT + TTL + 1, now=SENT + TTL + 2)
        assert lease == started(TTL, REVISION, SENT + TTL + 1, 0.0)
        assert lease.retries == 0

    def test_a_ttl_counts_from_the_last_renewal_that_was_answered(self) -> None:
        lease = answered(fresh(), Answer.RENEWED, sent=SENT + 3)
        assert answered(lease, Answer.SILENT, now=SENT + TTL).state is State.ACTIVE
        assert answered(lease, Answer.SILENT, now=SENT + 3 + TTL).state is State.RECOVERING


class TestFence:
    """Rule 3."""

    def test_a_failed_fence_registers_again_at_once(self) -> None:
        lease = answered(fresh(), Answer.FENCED, now=SENT + 4)
        assert (lease.state, lease.gone, lease.due) == (State.RECOVERING, True, SENT + 4)
        assert step(lease) is Step.REGISTER

    def test_it_waits_for_no_earlier_retries(self) -> None:
        lease = fresh()
        for _ in range(5):
            lease = answered(lease, Answer.SILENT)
        assert answered(lease, Answer.FENCED).retries == 0

    def test_registered_again_it_is_as_new(self) -> None:
        lease = answered(fresh(), Answer.FENCED)
        assert answered(lease, Answer.REGISTERED, revision=8, sent=SENT + 4) == started(TTL, 8, SENT + 4, 0.0)

    def test_until_then_it_is_tried_again(self) -> None:
        lease = answered(fresh(), Answer.FENCED, now=SENT + 4)
        for _ in range(2):
            lease = answered(lease, Answer.SILENT, now=SENT + 4)
            assert (lease.state, lease.gone, lease.due) == (State.RECOVERING, True, SENT + 4 + FIRST_RETRY)
            assert step(lease) is Step.REGISTER

    def test_without_a_ttl_it_is_registered_again_too(self) -> None:
        lease = answered(fresh(ttl=None), Answer.FENCED, now=SENT + 4)
        assert step(lease) is Step.REGISTER
        lease = answered(lease, Answer.SILENT, now=SENT + 4)
        assert lease.due == SENT + 4 + FIRST_RETRY
        assert answered(lease, Answer.REGISTERED, revision=8) == started(None, 8, SENT + 3, 0.0)


class TestLoss:
    """Rule 4."""

    @pytest.mark.parametrize("gone", [False, True])
    def test_another_owner_means_lost(self, gone: bool) -> None:
        lease = answered(fresh(), Answer.FENCED) if gone else fresh()
        lease = answered(lease, Answer.TAKEN)
        assert (lease.state, lease.due) == (State.LOST, math.inf)
        assert step(lease) is Step.NOTHING

    @pytest.mark.parametrize("revision", [REVISION, REVISION + 1])
    @pytest.mark.parametrize("answer", Answer)
    def test_lost_is_final(self, answer: Answer, revision: int) -> None:
        lost = answered(answered(fresh(), Answer.FENCED), Answer.TAKEN)
        assert answered(lost, answer, revision=revision) == lost
        assert renewed_at_once(lost, SENT + 50) == lost


class TestStaleAnswers:
    """Rule 5."""

    @pytest.mark.parametrize("answer", [Answer.RENEWED, Answer.FENCED, Answer.SILENT, Answer.REFUSED])
    def test_an_answer_about_another_revision_says_nothing(self, answer: Answer) -> None:
        lease = replaced(fresh(), REVISION + 1)
        now = answered(lease, answer)
        assert replace(now, due=lease.due) == lease
        assert SENT + 3.5 <= now.due <= SENT + 3.5 + TTL / 3

    @pytest.mark.parametrize("answer", [Answer.RENEWED, Answer.FENCED, Answer.SILENT, Answer.REFUSED])
    def test_it_is_no_reason_to_wait_until_the_lease_ends(self, answer: Answer) -> None:
        lease = replaced(fresh(), REVISION + 1)  # an update, which renews nothing
        assert answered(lease, answer, now=SENT + TTL - 1).due < SENT + TTL

    @pytest.mark.parametrize("answer", [Answer.RENEWED, Answer.FENCED, Answer.SILENT, Answer.REFUSED])
    def test_it_does_not_put_off_registering_again(self, answer: Answer) -> None:
        gone = answered(replaced(fresh(), 8), Answer.FENCED, revision=8, now=SENT + 4)
        late = answered(gone, answer, revision=8 if answer is Answer.RENEWED else REVISION, now=SENT + 4)
        assert step(late) is Step.REGISTER
        assert late.due <= SENT + 4 + FIRST_RETRY

    def test_a_changed_value_goes_on_under_its_lease(self) -> None:
        lease = fresh()
        assert replaced(lease, 8) == replace(lease, revision=8)
        assert answered(replaced(lease, 8), Answer.FENCED, revision=8).gone

    def test_a_late_renewal_does_not_bring_back_what_the_fence_refuted(self) -> None:
        lease = answered(fresh(), Answer.FENCED)
        late = answered(lease, Answer.RENEWED, revision=REVISION)
        assert late.gone
        assert step(late) is Step.REGISTER


class TestRefusal:
    """Rule 6."""

    def test_it_is_recovering_at_once_and_tried_again_after_some_seconds(self) -> None:
        lease = answered(fresh(ttl=60.0), Answer.REFUSED, now=SENT + 20)
        assert (lease.state, lease.gone, lease.due) == (State.RECOVERING, False, SENT + 24)
        assert step(lease) is Step.RENEW
        again = answered(lease, Answer.REFUSED, now=SENT + 24)
        assert again.due == SENT + 28

    def test_an_answer_ends_it(self) -> None:
        lease = answered(fresh(), Answer.REFUSED)
        assert answered(lease, Answer.RENEWED, sent=SENT + 5) == started(TTL, REVISION, SENT + 5, 0.0)

    @pytest.mark.parametrize("gone", [False, True])
    def test_without_a_way_to_ask_only_the_state_changes(self, gone: bool) -> None:
        lease = answered(fresh(), Answer.FENCED) if gone else fresh()
        for now, refused, state in (
            (SENT + TTL - 1, False, State.RECOVERING if gone else State.ACTIVE),
            (SENT + TTL - 1, True, State.RECOVERING),
            (SENT + TTL, False, State.RECOVERING),
        ):
            assert unheard(lease, now, refused=refused) == replace(lease, state=state)

    def test_a_lost_one_stays_lost(self) -> None:
        lost = answered(fresh(), Answer.TAKEN)
        assert unheard(lost, SENT + 100, refused=True) == lost


class TestInterference:
    """Rule 7."""

    def test_what_was_made_again_is_checked_soon_and_then_less_often(self) -> None:
        lease = answered(fresh(ttl=60.0), Answer.FENCED, now=SENT + 4)
        lease = answered(lease, Answer.REGISTERED, revision=8, sent=SENT + 4)
        distances, sent = [lease.due - lease.renewed], SENT
        for _ in range(4):
            sent = lease.due
            lease = answered(lease, Answer.RENEWED, revision=8, sent=sent, now=sent)
            distances.append(lease.due - sent)
        assert distances == [4.0, 8.0, 16.0, 20.0, 20.0]
        assert lease == started(60.0, 8, sent, 0.0)

    def test_a_first_registration_is_not(self) -> None:
        assert fresh(ttl=60.0).due == SENT + 20

    @given(chance=chances, ttl=st.floats(1.0, MAX_TTL), attacks=st.lists(st.floats(0.0, 60.0), max_size=20))
    def test_it_is_back_within_five_seconds_after_the_last_of_many(
        self, chance: float, ttl: float, attacks: list[float]
    ) -> None:
        """Each attack follows the last repair within the time of one check."""
        now = SENT
        lease = apply(started(ttl, 1, SENT, chance), Answer.FENCED, 1, now, now, chance)
        for revision, pause in enumerate(attacks, 2):
            lease = apply(lease, Answer.REGISTERED, revision, now, now, chance)
            attacked = now + min(pause, lease.due - now)
            now = lease.due
            assert now - attacked <= 5
            lease = apply(lease, Answer.FENCED, revision, now, now, chance)


class TestTheTtlInAHeader:
    @given(ttl=st.floats(1.0, MAX_TTL))
    def test_it_reads_back(self, ttl: float) -> None:
        read = read_ttl(write_ttl(ttl))
        assert read is not None
        assert abs(read - ttl) <= 0.0005 + ttl * 1e-12
        assert set(write_ttl(ttl)) <= set("0123456789.")

    @pytest.mark.parametrize(("ttl", "text"), [(10.0, "10"), (10, "10"), (1.5, "1.5"), (100.0, "100")])
    def test_it_is_short(self, ttl: float, text: str) -> None:
        assert write_ttl(ttl) == text

    @pytest.mark.parametrize("text", [None, "", "x", "0", "-1", "nan", "inf", "1e300", "1_0x"])
    def test_nonsense_is_none(self, text: str | None) -> None:
        assert read_ttl(text) is None


class TestReconnect:
    def test_everything_is_renewed_at_once(self) -> None:
        lease = renewed_at_once(answered(fresh(), Answer.SILENT), SENT + 4)
        assert (lease.due, lease.retries, step(lease)) == (SENT + 4, 0, Step.RENEW)

    def test_what_is_gone_is_registered_at_once(self) -> None:
        gone = answered(answered(fresh(), Answer.FENCED), Answer.SILENT)
        lease = renewed_at_once(gone, SENT + 4)
        assert (lease.due, lease.retries, step(lease)) == (SENT + 4, 0, Step.REGISTER)

    def test_what_has_nothing_to_do_stays(self) -> None:
        lease = fresh(ttl=None)
        assert renewed_at_once(lease, SENT + 4) == lease


ANSWERS = st.lists(
    st.tuples(
        st.sampled_from(Answer),
        st.sampled_from(["ours", "ours", "stale"]),
        st.floats(0.0, 30.0),  # how long the answer takes
        chances,
        st.sampled_from(["", "", "reconnected", "replaced"]),
    ),
    max_size=30,
)
AnswerStep = tuple[Answer, str, float, float, str]


class TestWhateverComes:
    @given(ttl=ttls, chance=chances, answers=ANSWERS)
    def test_the_invariants_lease(self, ttl: float | None, chance: float, answers: list[AnswerStep]) -> None:
        now, revision = 0.0, 1
        lease = started(ttl, revision, now, chance)
        for answer, about, latency, chance, also in answers:
            todo = step(lease)
            assert (todo is Step.NOTHING) == (
                lease.state is State.LOST or (lease.ttl is None and not lease.gone)
            )
            if also == "reconnected":
                lease = renewed_at_once(lease, now)
                assert step(lease) is todo
            # What is due at infinity is never done; an answer to an earlier try may still come.
            sent = now = max(now, lease.due) if lease.due < math.inf else now
            now += latency
            asked = lease.revision
            if also == "replaced":
                revision += 1
                lease = replaced(lease, revision)
            if about == "stale":
                asked -= 1
            elif answer is Answer.REGISTERED:
                revision += 1
                asked = revision
            before, lease = lease, apply(lease, answer, asked, sent, now, chance)

            if before.state is State.LOST:
                assert lease == before
                continue
            assert (lease.state is State.LOST) == (answer is Answer.TAKEN)
            if lease.state is State.LOST:
                assert lease.due == math.inf
                continue
            assert lease.ttl == ttl
            # An act is not asked for before the last one was sent, nor later than the usual renewal.
            assert lease.due >= sent
            if ttl is not None:
                assert lease.due <= now + ttl / 3
            made = answer is Answer.REGISTERED
            if made:
                check = 4.0 if before.gone else before.check
                assert lease == started(ttl, asked, sent, chance, check=check)
                assert lease.due <= started(ttl, asked, sent, chance).due
            if answer is Answer.RENEWED and lease.revision == asked and not lease.gone and ttl is not None:
                assert lease.due <= sent + ttl / 3
            if lease.gone:
                assert lease.state is State.RECOVERING
                assert lease.due < math.inf
            if before.gone and not made:
                assert lease.gone
            renewed = answer is Answer.RENEWED and before.revision == asked and not before.gone
            if before.state is State.RECOVERING and not made and not renewed:
                assert lease.state is State.RECOVERING
            if answer is Answer.REFUSED and before.revision == asked:
                assert lease.state is State.RECOVERING
            if lease.gone and not before.gone:
                assert answer is Answer.FENCED
                assert before.revision == asked

    @given(chance=chances, tries=st.integers(1, 50), ttl=st.floats(1.0, 3600.0))
    def test_retries_come_at_most_a_third_of_the_ttl_later(
        self, chance: float, tries: int, ttl: float
    ) -> None:
        lease = started(ttl, 1, 0.0, chance)
        for _ in range(tries):
            now = lease.due
            lease = apply(lease, Answer.SILENT, 1, now, now, chance)
            assert 0 < lease.due - now <= ttl / 3 + 1e-6

    @given(chance=chances, ttl=st.floats(1.0, 3600.0), latency=st.floats(0.0, 1.0))
    def test_a_lease_whose_renewals_are_answered_never_runs_out(
        self, chance: float, ttl: float, latency: float
    ) -> None:
        assume(latency < ttl / 3)
        lease = started(ttl, 1, 0.0, chance)
        for _ in range(20):
            end, now = lease.renewed + ttl, lease.due
            assert now + latency < end
            lease = apply(lease, Answer.RENEWED, 1, now, now + latency, chance)
            assert lease.state is State.ACTIVE
