"""URIs are shown without their secrets, whatever form these have."""

import pytest

from eexit.output.locations import inside, read_snippet, redact, without_secrets

SECRETS = [
    ("s3://KEY:SECRET@bucket/mine", "s3://…@bucket/mine"),
    ("s3://KEY:SECRET@bucket/mine?region=x&token=SECRET", "s3://…@bucket/mine?…"),
    ("s3://bucket/mine?access_token=SECRET", "s3://bucket/mine?…"),
    ("s3://KEY:SEC/RET@bucket/mine", "s3://…@bucket/mine"),
    ("s3://KEY:SEC@SEC/RET@bucket/mine", "s3://…@bucket/mine"),
    ("s3://KEY:SEC?RET@bucket/mine", "s3://…@bucket/mine?…"),
    ("s3://KEY:SECRET/mine", "s3://…/mine"),
    ("s3://SECRET@bucket", "s3://…@bucket"),
    ("abfs://a:SECRET@b.dfs.core.windows.net/mine", "abfs://…@b.dfs.core.windows.net/mine"),
    ("gs://SECRET@bucket/mine?x=SECRET@y", "gs://…@bucket/mine?…"),
    ("s3://KEY:SEC RET@bucket/mine", "s3://…@bucket/mine"),
]
OPEN = ["results/demo", "/a@b/c?d", "s3://bucket/mine", "s3://bucket/a@b", "hdfs://host:9000/mine", "file:///a@b"]


@pytest.mark.parametrize(("uri", "expected"), SECRETS)
def test_user_and_options_are_hidden(uri: str, expected: str) -> None:
    assert redact(uri) == expected
    if " " not in uri:
        assert without_secrets(f"no such folder: '{uri}' (give one)") == f"no such folder: '{expected}' (give one)"


@pytest.mark.parametrize("place", OPEN)
def test_what_holds_no_secret_is_shown_as_it_is(place: str) -> None:
    assert redact(place) == without_secrets(place) == place


def test_a_name_goes_before_the_options() -> None:
    assert inside("results/", "report.html") == "results/report.html"
    assert inside("s3://b/x?region=y", "report.html") == "s3://b/x/report.html?region=y"


def test_the_line_that_reads_results_holds_no_secret_and_all_that_a_reader_needs() -> None:
    def line(where: str, hint: str = "") -> str:
        return f'import pandas as pd; pd.read_parquet("{where}"){hint}'

    assert read_snippet("results/demo", "generations") == line("results/demo/generations")
    assert read_snippet("s3://b/x/", "tokens") == line("s3://b/x/tokens")
    assert read_snippet("s3://b/x?scheme=http&endpoint_override=127.0.0.1:9&secret=SECRET", "tokens") == line(
        "s3://b/x/tokens?scheme=http&endpoint_override=127.0.0.1:9"
    )
    keys = "  # with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set to what --out carries"
    assert read_snippet("s3://KEY:SECRET@b/x?region=y", "tokens") == line("s3://b/x/tokens?region=y", keys)
    assert read_snippet("abfs://a:SECRET@b/x", "tokens") == line("abfs://…@b/x/tokens", "  # with … as it is in --out")
