"""When to renew, when lost, what to do next: the numbered rules of the module, and what always holds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from natsdisc.lease import (
    MAX_TTL,
    Answer,
    Hold,
    State,
    Step,
    after,
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


def fresh(ttl: float | None = TTL, chance: float = 0.0) -> Hold:
    return started(ttl, REVISION, SENT, chance)


def answered(
    hold: Hold,
    answer: Answer,
    *,
    revision: int = REVISION,
    sent: float = SENT + 3,
    now: float = SENT + 3.5,
    chance: float = 0.0,
) -> Hold:
    return after(hold, answer, revision, sent, now, chance)


class TestRenewing:
    """Rule 1."""

    def test_a_lease_is_renewed_a_third_of_its_ttl_after_it_was_sent(self) -> None:
        assert fresh().due == SENT + TTL / 3
        assert step(fresh()) is Step.RENEW
        assert fresh().state is State.ACTIVE

    def test_chance_makes_it_a_little_earlier(self) -> None:
        assert SENT + TTL / 3 * 0.8 < fresh(chance=1.0).due < fresh(chance=0.5).due < SENT + TTL / 3

    def test_it_counts_from_sending_and_not_from_the_answer(self) -> None:
        hold = answered(fresh(), Answer.RENEWED, sent=SENT + 3, now=SENT + 5)
        assert hold.due == SENT + 3 + TTL / 3
        assert hold.renewed == SENT + 3

    def test_without_a_ttl_there_is_nothing_to_renew(self) -> None:
        hold = fresh(ttl=None)
        assert hold.due == math.inf
        assert step(hold) is Step.NOTHING
        assert answered(hold, Answer.RENEWED).due == math.inf

    @given(ttl=st.floats(1.0, 3600.0), sent=st.floats(0, 1e6), chance=chances)
    def test_two_renewals_fit_into_a_ttl_before_it_ends(self, ttl: float, sent: float, chance: float) -> None:
        assert sent < started(ttl, 1, sent, chance).due <= sent + ttl / 3


class TestSilence:
    """Rule 2."""

    def test_a_silent_renewal_is_sent_again_soon_and_less_often_in_a_long_outage(self) -> None:
        hold, distances = fresh(ttl=60.0), []
        for at in range(120):
            now = SENT + 20 + at
            hold = answered(hold, Answer.SILENT, now=now)
            distances.append(hold.due - now)
            assert step(hold) is Step.RENEW
        assert distances[::20] == [FIRST_RETRY, 0.5, 1.0, 2.0, 4.0, 4.0]
        assert distances == sorted(distances)

    def test_chance_makes_it_up_to_twice_as_soon(self) -> None:
        assert answered(fresh(), Answer.SILENT, chance=1.0).due == SENT + 3.5 + FIRST_RETRY / 2

    def test_it_is_never_later_than_the_usual_renewal(self) -> None:
        hold = fresh(ttl=1.5)
        for _ in range(60):
            hold = answered(hold, Answer.SILENT, now=SENT)
        assert hold.due == SENT + 0.5

    def test_it_is_no_loss(self) -> None:
        hold = answered(fresh(), Answer.SILENT, now=SENT + TTL - 0.001)
        assert (hold.state, hold.gone, hold.revision) == (State.ACTIVE, False, REVISION)

    def test_after_a_ttl_without_an_answer_it_is_recovering_and_still_renewed(self) -> None:
        hold = answered(fresh(), Answer.SILENT, now=SENT + TTL)
        assert (hold.state, hold.gone) == (State.RECOVERING, False)
        assert step(hold) is Step.RENEW

    def test_an_answer_ends_it(self) -> None:
        hold = answered(fresh(), Answer.SILENT, now=SENT + TTL)
        hold = answered(hold, Answer.RENEWED, sent=SENT + TTL + 1, now=SENT + TTL + 2)
        assert hold == started(TTL, REVISION, SENT + TTL + 1, 0.0)
        assert hold.retries == 0

    def test_a_ttl_counts_from_the_last_renewal_that_was_answered(self) -> None:
        hold = answered(fresh(), Answer.RENEWED, sent=SENT + 3)
        assert answered(hold, Answer.SILENT, now=SENT + TTL).state is State.ACTIVE
        assert answered(hold, Answer.SILENT, now=SENT + 3 + TTL).state is State.RECOVERING


class TestFence:
    """Rule 3."""

    def test_a_failed_fence_registers_again_at_once(self) -> None:
        hold = answered(fresh(), Answer.FENCED, now=SENT + 4)
        assert (hold.state, hold.gone, hold.due) == (State.RECOVERING, True, SENT + 4)
        assert step(hold) is Step.REGISTER

    def test_it_waits_for_no_earlier_retries(self) -> None:
        hold = fresh()
        for _ in range(5):
            hold = answered(hold, Answer.SILENT)
        assert answered(hold, Answer.FENCED).retries == 0

    def test_registered_again_it_is_as_new(self) -> None:
        hold = answered(fresh(), Answer.FENCED)
        assert answered(hold, Answer.REGISTERED, revision=8, sent=SENT + 4) == started(TTL, 8, SENT + 4, 0.0)

    def test_until_then_it_is_tried_again(self) -> None:
        hold = answered(fresh(), Answer.FENCED, now=SENT + 4)
        for _ in range(2):
            hold = answered(hold, Answer.SILENT, now=SENT + 4)
            assert (hold.state, hold.gone, hold.due) == (State.RECOVERING, True, SENT + 4 + FIRST_RETRY)
            assert step(hold) is Step.REGISTER

    def test_without_a_ttl_it_is_registered_again_too(self) -> None:
        hold = answered(fresh(ttl=None), Answer.FENCED, now=SENT + 4)
        assert step(hold) is Step.REGISTER
        hold = answered(hold, Answer.SILENT, now=SENT + 4)
        assert hold.due == SENT + 4 + FIRST_RETRY
        assert answered(hold, Answer.REGISTERED, revision=8) == started(None, 8, SENT + 3, 0.0)


class TestLoss:
    """Rule 4."""

    @pytest.mark.parametrize("gone", [False, True])
    def test_another_owner_means_lost(self, gone: bool) -> None:
        hold = answered(fresh(), Answer.FENCED) if gone else fresh()
        hold = answered(hold, Answer.TAKEN)
        assert (hold.state, hold.due) == (State.LOST, math.inf)
        assert step(hold) is Step.NOTHING

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
        hold = replaced(fresh(), REVISION + 1)
        now = answered(hold, answer)
        assert replace(now, due=hold.due) == hold
        assert SENT + 3.5 <= now.due <= SENT + 3.5 + TTL / 3

    @pytest.mark.parametrize("answer", [Answer.RENEWED, Answer.FENCED, Answer.SILENT, Answer.REFUSED])
    def test_it_is_no_reason_to_wait_until_the_lease_ends(self, answer: Answer) -> None:
        hold = replaced(fresh(), REVISION + 1)  # an update, which renews nothing
        assert answered(hold, answer, now=SENT + TTL - 1).due < SENT + TTL

    @pytest.mark.parametrize("answer", [Answer.RENEWED, Answer.FENCED, Answer.SILENT, Answer.REFUSED])
    def test_it_does_not_put_off_registering_again(self, answer: Answer) -> None:
        gone = answered(replaced(fresh(), 8), Answer.FENCED, revision=8, now=SENT + 4)
        late = answered(gone, answer, revision=8 if answer is Answer.RENEWED else REVISION, now=SENT + 4)
        assert step(late) is Step.REGISTER
        assert late.due <= SENT + 4 + FIRST_RETRY

    def test_a_changed_value_goes_on_under_its_lease(self) -> None:
        hold = fresh()
        assert replaced(hold, 8) == replace(hold, revision=8)
        assert answered(replaced(hold, 8), Answer.FENCED, revision=8).gone

    def test_a_late_renewal_does_not_bring_back_what_the_fence_refuted(self) -> None:
        hold = answered(fresh(), Answer.FENCED)
        late = answered(hold, Answer.RENEWED, revision=REVISION)
        assert late.gone
        assert step(late) is Step.REGISTER


class TestRefusal:
    """Rule 6."""

    def test_it_is_recovering_at_once_and_tried_again_after_some_seconds(self) -> None:
        hold = answered(fresh(ttl=60.0), Answer.REFUSED, now=SENT + 20)
        assert (hold.state, hold.gone, hold.due) == (State.RECOVERING, False, SENT + 24)
        assert step(hold) is Step.RENEW
        again = answered(hold, Answer.REFUSED, now=SENT + 24)
        assert again.due == SENT + 28

    def test_an_answer_ends_it(self) -> None:
        hold = answered(fresh(), Answer.REFUSED)
        assert answered(hold, Answer.RENEWED, sent=SENT + 5) == started(TTL, REVISION, SENT + 5, 0.0)

    @pytest.mark.parametrize("gone", [False, True])
    def test_without_a_way_to_ask_only_the_state_changes(self, gone: bool) -> None:
        hold = answered(fresh(), Answer.FENCED) if gone else fresh()
        for now, refused, state in (
            (SENT + TTL - 1, False, State.RECOVERING if gone else State.ACTIVE),
            (SENT + TTL - 1, True, State.RECOVERING),
            (SENT + TTL, False, State.RECOVERING),
        ):
            assert unheard(hold, now, refused=refused) == replace(hold, state=state)

    def test_a_lost_one_stays_lost(self) -> None:
        lost = answered(fresh(), Answer.TAKEN)
        assert unheard(lost, SENT + 100, refused=True) == lost


class TestInterference:
    """Rule 7."""

    def test_what_was_made_again_is_checked_soon_and_then_less_often(self) -> None:
        hold = answered(fresh(ttl=60.0), Answer.FENCED, now=SENT + 4)
        hold = answered(hold, Answer.REGISTERED, revision=8, sent=SENT + 4)
        distances, sent = [hold.due - hold.renewed], SENT
        for _ in range(4):
            sent = hold.due
            hold = answered(hold, Answer.RENEWED, revision=8, sent=sent, now=sent)
            distances.append(hold.due - sent)
        assert distances == [4.0, 8.0, 16.0, 20.0, 20.0]
        assert hold == started(60.0, 8, sent, 0.0)

    def test_a_first_registration_is_not(self) -> None:
        assert fresh(ttl=60.0).due == SENT + 20

    @given(chance=chances, ttl=st.floats(1.0, MAX_TTL), attacks=st.lists(st.floats(0.0, 60.0), max_size=20))
    def test_it_is_back_within_five_seconds_after_the_last_of_many(
        self, chance: float, ttl: float, attacks: list[float]
    ) -> None:
        """Each attack follows the last repair within the time of one check."""
        now = SENT
        hold = after(started(ttl, 1, SENT, chance), Answer.FENCED, 1, now, now, chance)
        for revision, pause in enumerate(attacks, 2):
            hold = after(hold, Answer.REGISTERED, revision, now, now, chance)
            attacked = now + min(pause, hold.due - now)
            now = hold.due
            assert now - attacked <= 5
            hold = after(hold, Answer.FENCED, revision, now, now, chance)


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
        hold = renewed_at_once(answered(fresh(), Answer.SILENT), SENT + 4)
        assert (hold.due, hold.retries, step(hold)) == (SENT + 4, 0, Step.RENEW)

    def test_what_is_gone_is_registered_at_once(self) -> None:
        gone = answered(answered(fresh(), Answer.FENCED), Answer.SILENT)
        hold = renewed_at_once(gone, SENT + 4)
        assert (hold.due, hold.retries, step(hold)) == (SENT + 4, 0, Step.REGISTER)

    def test_what_has_nothing_to_do_stays(self) -> None:
        hold = fresh(ttl=None)
        assert renewed_at_once(hold, SENT + 4) == hold


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
    def test_the_invariants_hold(self, ttl: float | None, chance: float, answers: list[AnswerStep]) -> None:
        now, revision = 0.0, 1
        hold = started(ttl, revision, now, chance)
        for answer, about, latency, chance, also in answers:
            todo = step(hold)
            assert (todo is Step.NOTHING) == (
                hold.state is State.LOST or (hold.ttl is None and not hold.gone)
            )
            if also == "reconnected":
                hold = renewed_at_once(hold, now)
                assert step(hold) is todo
            # What is due at infinity is never done; an answer to an earlier try may still come.
            sent = now = max(now, hold.due) if hold.due < math.inf else now
            now += latency
            asked = hold.revision
            if also == "replaced":
                revision += 1
                hold = replaced(hold, revision)
            if about == "stale":
                asked -= 1
            elif answer is Answer.REGISTERED:
                revision += 1
                asked = revision
            before, hold = hold, after(hold, answer, asked, sent, now, chance)

            if before.state is State.LOST:
                assert hold == before
                continue
            assert (hold.state is State.LOST) == (answer is Answer.TAKEN)
            if hold.state is State.LOST:
                assert hold.due == math.inf
                continue
            assert hold.ttl == ttl
            # An act is not asked for before the last one was sent, nor later than the usual renewal.
            assert hold.due >= sent
            if ttl is not None:
                assert hold.due <= now + ttl / 3
            made = answer is Answer.REGISTERED
            if made:
                check = 4.0 if before.gone else before.check
                assert hold == started(ttl, asked, sent, chance, check=check)
                assert hold.due <= started(ttl, asked, sent, chance).due
            if answer is Answer.RENEWED and hold.revision == asked and not hold.gone and ttl is not None:
                assert hold.due <= sent + ttl / 3
            if hold.gone:
                assert hold.state is State.RECOVERING
                assert hold.due < math.inf
            if before.gone and not made:
                assert hold.gone
            renewed = answer is Answer.RENEWED and before.revision == asked and not before.gone
            if before.state is State.RECOVERING and not made and not renewed:
                assert hold.state is State.RECOVERING
            if answer is Answer.REFUSED and before.revision == asked:
                assert hold.state is State.RECOVERING
            if hold.gone and not before.gone:
                assert answer is Answer.FENCED
                assert before.revision == asked

    @given(chance=chances, tries=st.integers(1, 50), ttl=st.floats(1.0, 3600.0))
    def test_retries_come_at_most_a_third_of_the_ttl_later(
        self, chance: float, tries: int, ttl: float
    ) -> None:
        hold = started(ttl, 1, 0.0, chance)
        for _ in range(tries):
            now = hold.due
            hold = after(hold, Answer.SILENT, 1, now, now, chance)
            assert 0 < hold.due - now <= ttl / 3 + 1e-6

    @given(chance=chances, ttl=st.floats(1.0, 3600.0), latency=st.floats(0.0, 1.0))
    def test_a_lease_whose_renewals_are_answered_never_runs_out(
        self, chance: float, ttl: float, latency: float
    ) -> None:
        assume(latency < ttl / 3)
        hold = started(ttl, 1, 0.0, chance)
        for _ in range(20):
            end, now = hold.renewed + ttl, hold.due
            assert now + latency < end
            hold = after(hold, Answer.RENEWED, 1, now, now + latency, chance)
            assert hold.state is State.ACTIVE
