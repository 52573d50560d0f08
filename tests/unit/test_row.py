"""What a row says of the add that made it."""

from datetime import UTC, datetime

import pytest

from customers.errors import Conflict, RepeatRejected
from customers.model import BookingCustomer
from customers.row import RequestDigest, check_repeat, new_row

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DIGEST = RequestDigest("request", "body")
ROW = new_row(
    "Contoso",
    BookingCustomer.model_construct(
        id="ada",
        display_name="Ada",
        email_address="ada@example.com",
        addresses=(),
        phones=(),
        created_date_time=NOW,
        last_updated_date_time=NOW,
    ),
    "first",
    DIGEST,
)


def test_an_add_whose_response_was_lost_is_no_repeat_of_itself() -> None:
    assert check_repeat(ROW, "first", DIGEST) is False


def test_an_add_with_the_digest_of_an_earlier_one_is_its_repeat() -> None:
    assert check_repeat(ROW, "second", DIGEST) is True


def test_any_other_add_with_its_id_is_refused() -> None:
    with pytest.raises(RepeatRejected):
        check_repeat(ROW, "second", RequestDigest("request", "other"))
    for digest in (RequestDigest("other", "body"), None):
        with pytest.raises(Conflict):
            check_repeat(ROW, "second", digest)
