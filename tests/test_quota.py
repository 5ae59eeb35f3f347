"""What is known of a server's quota: plain numbers in, decisions out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modellab_async import RateLimit
from modellab_async.quota import (
    PROBE_TIMEOUT,
    SLOW_START,
    Neighbors,
    Period,
    Quota,
    UnnamedRefusals,
)


def described(
    remaining: int | None, reset: float | None, *, period: float | None = 10.0
) -> RateLimit:
    """What a response says of a limit of 100."""
    return RateLimit(name="x", limit=100, period=period, remaining=remaining, reset=reset)


def answered(
    quota: Quota,
    limit: RateLimit | None,
    *,
    now: float,
    status: int = 200,
    sent_at: float | None = None,
) -> None:
    """A request's response arrives, by default at the moment when the request was sent."""
    sent_at = now if sent_at is None else sent_at
    quota.in_flight += 1
    quota.update(status, limit, sent_at=sent_at, now=now, random=lambda: 0.5)
    quota.in_flight -= 1


def probed(quota: Quota, now: float) -> None:
    """A probe is sent, and its response is awaited."""
    assert quota.admits(now)
    quota.acquire(now)


class TestPeriod:
    """When a period ends, from ends that are rounded to whole seconds."""

    def test_the_end_is_the_latest_named_while_rounding_is_unknown(self):
        """No request is sent before any time that the server named."""
        period = Period()
        period.count_down(9, 17.2, sent_at=10, now=10.2)
        period.count_down(8, 16.9, sent_at=10, now=10.9)
        period.count_down(7, 17.5, sent_at=10, now=11.5)
        assert period.ends_at == 17.5

    def test_the_end_is_the_earliest_named_if_the_server_rounds_up(self):
        """None of the ends it names is too early."""
        period = Period(rounds_up=True)
        for end in (17.2, 16.9, 17.5):
            period.count_down(9, end, sent_at=10, now=10)
        assert period.ends_at == 16.9

    def test_the_end_is_a_second_after_the_earliest_if_the_server_rounds_down(self):
        """All of the ends it names are less than a second too early."""
        period = Period(rounds_up=False)
        for end in (17.2, 16.9, 17.5):
            period.count_down(9, end, sent_at=10, now=10)
        assert period.ends_at == 17.9

    def test_no_period_outlasts_its_length(self):
        """Counted from its first response; but the latest end that was named is waited for."""
        period = Period(length=7, rounds_up=False)
        period.count_down(9, 16.9, sent_at=10, now=10.5)
        assert period.ends_at == 17.5
        period.count_down(8, 17.8, sent_at=10, now=10.8)
        assert period.ends_at == 17.8

    @pytest.mark.parametrize(
        ("end", "sent_at", "is_included"),
        [(17, 11, True), (18.4, 11, True), (15.6, 11, True), (18.6, 11, False), (15.4, 11, False)],
    )
    def test_ends_of_one_period_differ_by_rounding_only(
        self, end: float, sent_at: float, is_included: bool
    ):
        """A response that names an end a second and a half away is of another period."""
        period = Period(length=10)
        period.count_down(9, 17, sent_at=10, now=10)
        assert period.includes(end, sent_at) is is_included

    def test_a_request_sent_after_the_end_is_of_another_period(self):
        """Whatever end its response names."""
        period = Period(length=10)
        period.count_down(9, 17, sent_at=10, now=10)
        assert period.includes(17.5, sent_at=17.9)
        assert not period.includes(17.5, sent_at=18)
        period.rounds_up = True
        assert not period.includes(17.5, sent_at=17)

    def test_the_smallest_remainder_counts(self):
        """Responses of one period arrive in any order."""
        period = Period()
        remainders = []
        for remaining in (50, 48, 49):
            period.count_down(remaining, 17, sent_at=10, now=10)
            remainders.append(period.remaining)
        assert remainders == [50, 48, 48]

    def test_a_later_end_begins_a_new_period_and_an_earlier_one_is_too_late(self):
        """Of the two periods, only the newer one counts."""
        period = Period(length=10)
        assert period.count_down(5, 20, sent_at=18, now=18)
        assert period.count_down(99, 30, sent_at=21, now=21)
        assert not period.count_down(4, 20, sent_at=19, now=22)
        assert (period.remaining, period.ends_at) == (99, 30)

    def test_a_response_to_a_request_sent_before_the_probe_is_too_old(self):
        """It says nothing of the period that the probe began."""
        period = Period()
        period.begin(now=10)
        assert not period.count_down(0, 12, sent_at=9.9, now=10.1)
        assert period.remaining == math.inf


class TestUnnamedRefusals:
    """429s that name no time."""

    def test_pauses_grow_up_to_a_minute_until_a_success(self):
        """Each is twice as long as the one before, minus a jitter of up to a half."""
        refusals, period = UnnamedRefusals(), Period()
        for _ in range(2):
            pauses = [refusals.pause(None, period, 0, random=0) for _ in range(9)]
            assert pauses == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30]
            refusals.reset()

    def test_jitter_makes_pauses_up_to_twice_as_long(self):
        """So that processes differ."""
        assert UnnamedRefusals().pause(None, Period(), 0, random=0.5) == 0.375

    def test_the_first_pause_lasts_until_the_period_ends_if_that_is_known(self):
        """No period outlasts its length; the next pause is a guess."""
        refusals = UnnamedRefusals()
        period = Period(length=10, first_response_at=100)
        assert refusals.pause(None, period, 104, random=0) == 6
        assert refusals.pause(None, period, 104, random=0) == 0.5

    def test_zero_seconds_are_less_than_one(self):
        """A reset of 0 is rounded down."""
        refusals = UnnamedRefusals()
        assert refusals.pause(0, Period(length=10, first_response_at=100), 104, random=0) == 1
        refusals.reset()
        assert refusals.pause(0, Period(length=10, first_response_at=94.5), 104, random=0) == 0.5

    def test_the_first_two_since_a_success_are_told_apart(self):
        """They may concern their own calls only."""
        refusals = UnnamedRefusals()
        assert [refusals.count() for _ in range(4)] == [True, True, False, False]
        refusals.reset()
        assert refusals.count()


class TestNeighbors:
    """Other processes, from what was used of a period."""

    def alone(self) -> Neighbors:
        """Neighbors in whose first period there was no sign of them."""
        neighbors = Neighbors()
        neighbors.begin_period()
        neighbors.begin_period()
        return neighbors

    def test_neighbors_are_expected_until_a_period_shows_no_sign_of_them(self):
        """Until then a sixteenth of what remains may be in flight, and always one request."""
        neighbors = Neighbors()
        assert neighbors.max_in_flight(80) == 5
        neighbors.begin_period()
        for used in range(1, 50):
            neighbors.count(used, in_flight=1)
        assert neighbors.max_in_flight(80) == 5
        assert neighbors.max_in_flight(8) == 1
        neighbors.begin_period()
        assert neighbors.max_in_flight(80) == 40
        assert neighbors.max_in_flight(1) == 1

    def test_neighbors_are_noticed_by_what_they_use(self):
        """As soon as more is used than our own requests explain."""
        neighbors = self.alone()
        neighbors.count(10, in_flight=1)
        neighbors.count(11, in_flight=1)
        assert neighbors.max_in_flight(80) == 40
        neighbors.count(13, in_flight=1)
        assert neighbors.max_in_flight(80) == 5

    def test_requests_in_flight_may_have_been_counted(self):
        """Responses of our own that arrive in any order are no neighbors."""
        neighbors = self.alone()
        for answered_so_far, used in enumerate((4, 1, 3, 2)):
            neighbors.count(used, in_flight=4 - answered_so_far)
        assert neighbors.max_in_flight(80) == 40

    def test_what_was_used_before_our_first_request_is_no_sign_of_neighbors(self):
        """A period that was nearly used up before we came may be ours for the rest."""
        neighbors = self.alone()
        for used in (91, 92, 93):
            neighbors.count(used, in_flight=1)
        assert neighbors.max_in_flight(7) == 3.5

    def test_a_response_without_headers_may_have_been_counted_too(self):
        """It explains one request."""
        neighbors = self.alone()
        neighbors.count(10, in_flight=1)
        neighbors.count_own()
        neighbors.count(12, in_flight=1)
        assert neighbors.max_in_flight(80) == 40

    def test_neighbors_are_expected_for_one_more_period(self):
        """They are forgotten after a whole period without a sign of them."""
        neighbors = self.alone()
        neighbors.count(10, in_flight=1)
        neighbors.count(20, in_flight=1)
        neighbors.begin_period()
        assert neighbors.max_in_flight(80) == 5
        neighbors.begin_period()
        assert neighbors.max_in_flight(80) == 40


class TestQuota:
    """Whether one more request may be sent."""

    def test_an_unknown_quota_opens_with_few_and_then_costs_nothing(self):
        """Until the first good answer only a few may be in flight; without headers, no bound."""
        quota = Quota()
        quota.in_flight = SLOW_START - 1
        assert quota.admits(0)
        quota.in_flight = SLOW_START
        assert not quota.admits(0)
        answered(quota, None, now=0)
        quota.in_flight = 100_000
        assert quota.admits(0)

    @pytest.mark.parametrize("status", [401, 403, 500, 503])
    def test_a_bad_first_answer_opens_nothing(self, status):
        """Neither a refusal nor a server's failure shows that more requests make sense."""
        quota = Quota()
        answered(quota, None, now=0, status=status)
        quota.in_flight = SLOW_START
        assert not quota.admits(0)

    def test_the_retry_after_of_a_503_says_nothing_of_the_quota(self):
        """What is known of the limit stays, and so does how its end is rounded."""
        quota = Quota()
        answered(quota, described(50, 7), now=0)
        answered(quota, RateLimit(reset=0.0), now=1, status=503)
        assert quota.last == described(50, 7)
        assert quota.admits(1)

    def test_part_of_what_remains_is_in_flight(self):
        """A sixteenth in the first period, half in the next ones if there are no neighbors."""
        quota = Quota()
        for now, most in ((0, 5), (10, 40)):
            answered(quota, described(80, 10), now=now)
            quota.in_flight = most - 1
            assert quota.admits(now)
            quota.in_flight = most
            assert not quota.admits(now)
            assert quota.pause(now) == 0
            quota.in_flight = 0
            for _ in range(64):  # the slow start is over
                answered(quota, described(80, 9), now=now + 1)

    def test_the_last_request_of_a_period_may_be_sent(self):
        """Then the quota is used up until the period ends."""
        quota = Quota()
        answered(quota, described(1, 7), now=0)
        assert quota.admits(0)
        quota.acquire(0)
        assert not quota.admits(0)
        assert quota.pause(0) == 7

    def test_nothing_remaining_on_a_200_closes_until_the_reset(self):
        """A 200 that says 0 remain is as good as a 429."""
        quota = Quota()
        answered(quota, described(0, 7), now=100)
        assert not quota.admits(106.99)
        assert quota.admits(107)

    def test_a_new_period_begins_with_one_probe(self):
        """After a pause one request is sent, and its response lets more follow."""
        quota = Quota()
        answered(quota, described(0, 7), now=0)
        probed(quota, now=7)
        assert not quota.admits(7)
        answered(quota, described(99, 10), now=7.1, sent_at=7)
        quota.release(7)
        admitted = 0
        while quota.admits(7.1):
            quota.acquire(7.1)
            admitted += 1
        assert admitted == 4

    def test_a_probe_is_alone_beside_requests_of_the_last_period(self):
        """Also if what remained was used up by requests in flight."""
        quota = Quota()
        answered(quota, described(1, 7), now=0)
        quota.acquire(0)
        assert not quota.admits(6.9)
        probed(quota, now=7)
        assert not quota.admits(7)

    def test_a_response_without_headers_to_a_probe_opens_too(self):
        """The server has stopped to count."""
        quota = Quota()
        answered(quota, None, now=0)
        answered(quota, described(0, 7), now=0)
        probed(quota, now=7)
        answered(quota, None, now=7.1, sent_at=7)
        assert quota.admits(7.1)

    def test_a_request_of_the_last_period_does_not_delay_the_probe(self):
        """A request that is still in flight from the last period blocks nothing in the next."""
        quota = Quota()
        quota.in_flight = 1
        answered(quota, described(0, 7), now=0)
        assert quota.admits(7)

    def test_a_probe_that_hangs_holds_back_its_own_call_only(self):
        """After a second without a response, another probe is sent."""
        quota = Quota()
        answered(quota, described(0, 7), now=0)
        probed(quota, now=7)
        assert not quota.admits(7 + PROBE_TIMEOUT / 2)
        assert quota.admits(7 + PROBE_TIMEOUT)

    def test_a_probe_that_ends_without_a_verdict_is_followed_at_once(self):
        """A probe that is lost or answered 503 says nothing, and the next one need not wait."""
        quota = Quota()
        answered(quota, described(0, 7), now=0)
        probed(quota, now=7)
        quota.release(7)
        assert quota.admits(7.01)

    def test_late_answers_do_not_bring_quota_back(self):
        """Answers of one period arrive in any order; the smallest remainder counts."""
        quota = Quota()
        for remaining in (50, 48, 49):
            answered(quota, described(remaining, 7), now=0)
        quota.in_flight = 47
        assert quota.pause(0) == 0
        quota.in_flight = 48
        assert quota.pause(0) == 7

    def test_an_answer_of_the_last_period_is_ignored_in_the_next(self):
        """A late answer that names an end long past says nothing of this period."""
        quota = Quota()
        answered(quota, described(80, 10), now=10)
        answered(quota, described(0, 0), now=10.2)
        assert quota.admits(10.2)

    def test_a_period_that_turned_is_counted_anew(self):
        """More remaining and a later end: the next period has begun."""
        quota = Quota()
        answered(quota, described(1, 1), now=9)
        answered(quota, described(99, 10), now=10)
        quota.in_flight = 98
        assert quota.pause(10) == 0

    def test_the_latest_named_time_is_waited_for_while_rounding_is_unknown(self):
        """No attempt is made before any time that the server named."""
        quota = Quota()
        answered(quota, described(1, 7), now=0)
        answered(quota, described(0, 7), now=0.9)
        assert quota.opens_at == pytest.approx(7.9)

    def test_a_probe_that_came_too_early_teaches_that_times_are_rounded_down(self):
        """After a probe is refused within the same period, a second is allowed for rounding."""
        quota = Quota()
        answered(quota, described(0, 7), now=0)
        probed(quota, now=7)
        answered(quota, described(0, 1), now=7.05, sent_at=7, status=429)
        quota.release(7)
        assert quota.opens_at == pytest.approx(8.05)
        probed(quota, now=8.05)
        answered(quota, described(99, 10), now=8.1, sent_at=8.05)
        answered(quota, described(0, 10), now=8.9)
        assert quota.opens_at == pytest.approx(18.9)

    def test_a_zero_on_a_response_means_that_times_are_rounded_down(self):
        """A reset of 0 seconds ends within one second, and no period outlasts its length."""
        quota = Quota()
        answered(quota, described(1, 0, period=1.0), now=0.2)
        answered(quota, described(0, 0, period=1.0), now=0.3)
        assert quota.opens_at == pytest.approx(1.2)

    def test_a_probe_that_finds_a_whole_period_teaches_that_times_are_rounded_up(self):
        """Then the earliest time named in a period is the truest."""
        quota = Quota()
        answered(quota, described(0, 7), now=0)
        probed(quota, now=7)
        answered(quota, described(99, 10), now=7.1, sent_at=7)
        quota.release(7)
        answered(quota, described(0, 10), now=7.9)
        assert quota.opens_at == pytest.approx(17.1)

    def test_refusals_that_name_no_time_are_asked_less_and_less_often(self):
        """Each blind pause is longer than the last, up to a minute, and jittered."""
        assert self.blind_pauses(Quota(), None) == pytest.approx(
            [0.375, 0.75, 1.5, 3, 6, 12, 24, 45, 45, 45]
        )

    def test_no_blind_pause_is_longer_than_the_period(self):
        """It is over by then."""
        assert max(self.blind_pauses(Quota(), RateLimit(period=8))) == 8 * 0.75

    @staticmethod
    def blind_pauses(quota: Quota, limit: RateLimit | None) -> list[float]:
        """The pauses after ten probes one after the other that are refused."""
        now, pauses = 0.0, []
        for _ in range(10):
            answered(quota, limit, now=now, status=429)
            pauses.append(quota.opens_at - now)
            now = quota.opens_at
            probed(quota, now)
        return pauses

    def test_a_refusal_that_names_no_time_is_waited_out_until_the_period_ends(self):
        """The next one, at the beginning of a period, only for a moment."""
        quota = Quota()
        answered(quota, described(0, 7), now=0)
        probed(quota, now=7)
        answered(quota, described(99, 10), now=7.1, sent_at=7)
        quota.release(7)
        for _ in range(3):
            answered(quota, None, now=9, status=429)
        assert quota.opens_at == pytest.approx(17.1)
        probed(quota, now=17.1)
        answered(quota, None, now=17.1, status=429)
        assert quota.opens_at == pytest.approx(17.1 + 0.75)

    @pytest.mark.parametrize("reset", [0.0, None])
    def test_a_burst_of_refusals_is_one_refusal(self, reset: float | None):
        """However many requests were in flight when the pause began, it is not prolonged."""
        quota = Quota()
        answered(quota, None, now=0)
        for _ in range(50):
            answered(quota, RateLimit(reset=reset, remaining=0), now=1.01, sent_at=1, status=429)
        assert quota.opens_at <= 2.01

    def test_a_burst_can_name_a_later_end(self):
        """The latest of the times that a burst of refusals names is waited for."""
        quota = Quota()
        answered(quota, described(0, 7), now=1.0, sent_at=1, status=429)
        answered(quota, described(0, 7), now=1.4, sent_at=1, status=429)
        assert quota.opens_at == pytest.approx(8.4)

    def test_nothing_remaining_without_a_time_pauses(self):
        """A success that says 0 remain pauses until the period must be over."""
        quota = Quota()
        answered(quota, RateLimit(remaining=1, period=10), now=0)
        answered(quota, RateLimit(remaining=0, period=10), now=1)
        assert not quota.admits(1.1)

    def test_one_or_two_429s_that_name_no_time_are_let_pass_amid_good_answers(self):
        """Only the third without a good answer between closes; those of one pause count once."""
        quota = Quota()
        for _ in range(3):
            answered(quota, None, now=0)
            answered(quota, None, now=0, status=429)
            answered(quota, None, now=0, status=429)
            assert quota.admits(0)
        answered(quota, None, now=0, status=429)
        assert not quota.admits(0)
        opens_at = quota.opens_at
        for _ in range(50):
            answered(quota, None, now=0.01, sent_at=0, status=429)
        assert quota.opens_at == opens_at

    def test_a_429_closes_whatever_its_headers_claim(self):
        """A refusal with quota left is still a refusal."""
        quota = Quota()
        answered(quota, described(50, 7), now=0, status=429)
        assert not quota.admits(6)

    def test_a_429_that_names_an_earlier_time_is_believed(self):
        """The last word of the server counts, not an end that it named before."""
        quota = Quota()
        answered(quota, described(50, 60, period=60), now=0)
        answered(quota, described(0, 2), now=1, status=429)
        assert quota.opens_at == pytest.approx(3)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([200, 404, 429, 500, 503]),
                st.one_of(
                    st.none(),
                    st.builds(
                        RateLimit,
                        remaining=st.one_of(st.none(), st.integers(0, 1000)),
                        reset=st.one_of(st.none(), st.floats(0, 86_400)),
                        period=st.one_of(st.none(), st.floats(0.1, 86_400)),
                    ),
                ),
                st.floats(0, 100),
            ),
            max_size=30,
        )
    )
    def test_whatever_is_said_a_quota_opens_again(self, answers):
        """No sequence of answers closes a quota for longer than a day and a second."""
        quota, now = Quota(), 0.0
        for status, limit, pause in answers:
            now += pause
            answered(quota, limit, now=now, status=status)
            assert quota.opens_at <= now + 86_402
            assert quota.admits(now + 86_403)
