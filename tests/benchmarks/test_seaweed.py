"""What is read from, and written for, SeaweedFS's programs and curl."""

from pathlib import Path

import pytest

from benchmarks.processes import Failed
from benchmarks.seaweed import curl_config, requests_per_second

PART = """
------------ {kind} Benchmark ----------
Completed 2994 of 3000 requests, 99.8% 2994.0/s 3.0MB/s

Concurrency Level:      16
Time taken for tests:   1.006 seconds
Completed requests:      {completed}
Failed requests:        {failed}
Total transferred:      3166664 bytes
Requests per second:    {speed} [#/sec]
Transfer rate:          3075.22 [Kbytes/sec]
"""


def report(completed: int = 3000, failed: int = 0) -> str:
    writing = PART.format(kind="Writing", completed=completed, failed=failed, speed="2983.29")
    return writing + PART.format(kind="Randomly Reading", completed=3000, failed=0, speed="17724.12")


@pytest.mark.parametrize(("speed", "kind"), [(2983.29, "Writing"), (17724.12, "Reading")])
def test_each_part_of_a_report_has_its_own_speed(speed: float, kind: str) -> None:
    """Writes and reads are told apart in one report."""
    assert speed == requests_per_second(report(), kind, 3000)


@pytest.mark.parametrize(("completed", "failed"), [(2999, 0), (3000, 1)])
def test_a_run_that_did_not_do_all_of_it_has_no_speed(completed: int, failed: int) -> None:
    """What was left out, or failed, would make it look faster."""
    with pytest.raises(Failed, match=f"completed {completed} of 3000, {failed} failed"):
        requests_per_second(report(completed, failed), "Writing", 3000)


def test_a_report_without_the_part_is_a_failure() -> None:
    """Instead of the other part's speed."""
    with pytest.raises(Failed, match="told no speed of its Reading part"):
        requests_per_second(PART.format(kind="Writing", completed=1, failed=0, speed="1.0"), "Reading", 1)


def test_curl_is_told_where_each_file_goes() -> None:
    """A pair of lines a file, quoted."""
    expected = 'url = "http://a/b"\noutput = "/tmp/a \\"b\\""\n'

    assert expected == curl_config({"http://a/b": Path('/tmp/a "b"')})
