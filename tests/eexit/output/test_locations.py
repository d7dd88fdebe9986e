"""URIs are shown without their secrets, whatever form these have."""

from eexit.output.locations import inside, read_snippet, redact, without_secrets

SECRETS = [
    ("s3://KEY:SECRET@bucket/mine?region=x&token=SECRET", "s3://…@bucket/mine?…"),
    ("s3://bucket/mine?access_token=SECRET", "s3://bucket/mine?…"),
    ("s3://KEY:SEC@SEC/RET@bucket/mine", "s3://…@bucket/mine"),
    ("s3://KEY:SEC?RET@bucket/mine", "s3://…@bucket/mine?…"),
    ("s3://KEY:SECRET/mine", "s3://…/mine"),
    ("s3://SECRET@bucket", "s3://…@bucket"),
    ("abfs://a:SECRET@b.dfs.core.windows.net/mine", "abfs://…@b.dfs.core.windows.net/mine"),
    ("gs://SECRET@bucket/mine?x=SECRET@y", "gs://…@bucket/mine?…"),
    ("s3://KEY:SEC RET@bucket/mine", "s3://…@bucket/mine"),
]
OPEN = ["results/demo", "/a@b/c?d", "s3://bucket/mine", "s3://bucket/a@b", "hdfs://host:9000/mine", "file:///a@b"]


def test_user_and_options_are_hidden_and_what_holds_no_secret_is_shown_as_it_is() -> None:
    for uri, expected in (*SECRETS, *zip(OPEN, OPEN, strict=True)):
        assert redact(uri) == expected
        if " " not in uri:
            assert without_secrets(f"no such folder: '{uri}' (give one)") == f"no such folder: '{expected}' (give one)"


def test_the_line_that_reads_results_holds_no_secret() -> None:
    for location, shown, hint in (
        ("results/demo", "results/demo/tokens", ""),
        ("s3://b/x/", "s3://b/x/tokens", ""),
        ("s3://b/x?scheme=http&endpoint_override=127.0.0.1:9&secret=SECRET",
         "s3://b/x/tokens?scheme=http&endpoint_override=127.0.0.1:9", ""),
        ("s3://KEY:SECRET@b/x?region=y", "s3://b/x/tokens?region=y",
         "  # with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set to what --out carries"),
        ("abfs://a:SECRET@b/x", "abfs://…@b/x/tokens", "  # with … as it is in --out"),
    ):  # fmt: skip
        assert read_snippet(location, "tokens") == f'import pandas as pd; pd.read_parquet("{shown}"){hint}'
    assert inside("results/", "report.html") == "results/report.html"
    assert inside("s3://b/x?region=y", "report.html") == "s3://b/x/report.html?region=y", "before the options"
