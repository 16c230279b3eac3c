"""No secret is printed or stored, whatever its form in a URL and whichever library repeats the URL."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from cli_harness import TINY, Lab
from hypothesis import given
from hypothesis import strategies as st

from runner import exits, record
from runner.redaction import HIDDEN, has_password, redacted
from runner.states import State

# Part of every password of these tests, so that even a remaining part of a password is found.
MARK = "SESAME"
AWKWARD = "/#?@:%=+~!$'\"()*;,[]{}|\\^`<>é" + "abc123"


def containing_mark(alphabet: str) -> st.SearchStrategy[str]:
    """Draw passwords that do not begin with a digit: a port in a URL would look the same."""
    around = st.text(alphabet, max_size=4)
    made = st.builds(lambda before, after: (before + MARK + after).strip(), around, around)
    return made.filter(lambda password: not re.match(r"\d", password))


passwords = containing_mark(AWKWARD)
with_spaces = containing_mark(AWKWARD + " ")
schemes = st.sampled_from(["http", "https", "postgresql+psycopg", "mysql", "s3", "redis", "ray"])
names = st.sampled_from(
    [
        "password",
        "passwd",
        "token",
        "access_token",
        "api_key",
        "sslpassword",
        "AWSAccessKeyId",
        "sig",
        "secret",
    ]
) | st.sampled_from(
    ["X-Amz-Signature", "X-Amz-Security-Token", "X-Amz-Credential", "client_secret", "accessKey"]
)
said = st.sampled_from(
    [
        "{}",
        "cannot reach {}",
        "{}: Connection refused",
        "OperationalError('{}')",
        "at '{}' (try again)",
        "(psycopg.Error) {}\nBackground: https://sqlalche.me/e/20/e3q8",
        "Max retries with url: {} (Caused by x)",
    ]
)
user_urls = st.builds("{}://ada:{{}}@db.example:5432/runs".format, schemes)
query_urls = st.builds("{}://db.example/runs?user=ada&{}={{}}&timeout=5".format, schemes, names)


@given(user_urls | query_urls, passwords, said)
def test_a_password_as_it_was_typed_is_hidden_in_any_text(url: str, password: str, text: str) -> None:
    assert MARK not in redacted(text.format(url.format(password)), {})


@given(user_urls | query_urls, with_spaces, said, st.sampled_from([quote, quote_plus]))
def test_an_encoded_password_is_hidden_in_any_text(url: str, password: str, text: str, encode) -> None:
    encoded = url.format(encode(password, safe=""))
    assert MARK not in redacted(text.format(encoded), {})
    assert "db.example" in redacted(text.format(encoded), {})


@given(user_urls | query_urls, with_spaces)
def test_a_url_alone_may_hold_spaces_in_its_password(url: str, password: str) -> None:
    assert MARK not in redacted(url.format(password), {})


@given(user_urls | query_urls, with_spaces, said, st.sampled_from(["MLFLOW_TRACKING_URI", "http_proxy"]))
def test_the_password_in_a_variable_is_hidden_in_whatever_form_it_is_repeated(
    url: str, password: str, text: str, variable: str
) -> None:
    environ = {variable: url.format(password), "HOME": "/home/ada"}
    for repeated in (
        password,
        quote(password),
        quote_plus(password),
        repr(password),
        f"user=ada pw={password}",
    ):
        assert MARK not in redacted(text.format(repeated), environ)


@given(with_spaces, st.sampled_from(["AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD"]))
def test_a_variable_that_is_a_secret_is_hidden_everywhere(secret: str, variable: str) -> None:
    assert MARK not in redacted(f"signed with {secret}, refused", {variable: secret})


@given(user_urls | query_urls, passwords, said)
def test_hiding_twice_is_hiding_once(url: str, password: str, text: str) -> None:
    once = redacted(text.format(url.format(password)), {})
    assert redacted(once, {}) == once


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "postgresql+psycopg://h/m?user=u&password=SESAME",
            f"postgresql+psycopg://h/m?user=u&password={HIDDEN}",
        ),
        ("postgresql://runner:SESAME@db:5432/runner", "postgresql://db:5432/runner"),
        ("https://SESAME@git.example/x", "https://git.example/x"),
        ("http://ada:SESAME@lab:5000/mlflow", "http://lab:5000/mlflow"),
        ("http://ada:SES@ME@[::1]:5000?a=b", "http://[::1]:5000?a=b"),
        ("at mysql+pymysql://ada:SES/A?M#E@lab/mlflow: a@b", "at mysql+pymysql://lab/mlflow: a@b"),
        ("no http://a:SESAME@b and no https://c:SESAME@d: ada@e", "no http://b and no https://d: ada@e"),
        ("host=db user=ada password='SES AME' port=5432", f"host=db user=ada password={HIDDEN} port=5432"),
        (json.dumps({"user": "ada", "password": "SESAME"}), f'{{"user": "ada", "password": {HIDDEN}}}'),
        ("Authorization: Basic U0VTQU1F", f"Authorization: Basic {HIDDEN}"),
        ("curl -H 'Authorization: Bearer SESAME'", f"curl -H 'Authorization: Bearer {HIDDEN}'"),
    ],
)
def test_the_rest_of_a_text_stays(text: str, shown: str) -> None:
    assert redacted(text, {}) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/ada@corp.example/runs/mlflow.db",
        "http://[::1]:5000/#/experiments/1/runs?workflowType=machine_learning",
        "http://127.0.0.1:5000 is away: ask ada@example.org",
        "http://lab:5000/page@2",
        "http://[",
        "postgresql://runner@db/runner",
        "abfs://container@account.dfs.core.windows.net/runs",
        "s3://bucket/prefix: Access Denied",
        "db:5432: the server wants a password: correct RUNNER_DATABASE_URL",
        "--set optim.lr=0.01 num_tokens=5 key=value",
        "basic training of 3 epochs",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text, {"HOME": "/home/ada", "PWD": "/srv/runs", "KEYS": "none"}) == text


def test_a_url_with_a_password_is_known_as_one() -> None:
    assert has_password("s3://AKIA:SESAME@bucket") and has_password("s3://bucket?token=SESAME")
    assert not has_password("s3://bucket/prefix") and not has_password("abfs://container@account")


# Where texts are printed, stored and published.

URL = "postgresql+psycopg://h/m?user=u&password=SESAME"


def test_no_command_prints_the_password_of_the_tracking_store(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URL)
    lab.submit()  # says that the scheduler publishes elsewhere
    for words in (("status",), ("status", "--json"), ("show", 1), ("submit", lab.file())):
        done = lab.call(*words)
        assert MARK not in done.out + done.err


def test_no_row_keeps_the_password_of_a_url_in_an_exception(lab: Lab) -> None:
    lab.submit()
    lab.start(1)
    lab.store.published(1, error=f"cannot connect to {URL}")
    lab.end(1, State.FAILED, f"OperationalError: ({URL})")
    run = lab.run(1)
    assert MARK not in f"{run.reason} {run.publish_error} {lab.store.attempts(1)}"
    assert run.reason is not None and "password=***" in run.reason


def test_no_tag_in_mlflow_holds_a_password(lab: Lab) -> None:
    lab.submit(f"{TINY}runner: {{tags: {{store: 's3://ada:{MARK}@bucket'}}}}\n")
    lab.store.note([1], f"see https://ada:{MARK}@wiki/page")
    tags = record.user_tags(lab.run(1), own=(), before={})
    assert (tags["store"], tags["mlflow.note.content"]) == ("s3://bucket", "see https://wiki/page")


FAILS = f"""
import sys
from pathlib import Path
from runner.output_log import log_to
log_to(Path(sys.argv[1]))
print("connecting to {URL}")
raise ValueError("password is {MARK}")
"""


def test_a_log_holds_no_password_in_what_is_printed_or_raised(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    environ = {**os.environ, "MLFLOW_TRACKING_PASSWORD": MARK}
    assert subprocess.run([sys.executable, "-c", FAILS, log], env=environ).returncode == 1
    assert MARK not in log.read_text()
    assert "connecting to postgresql+psycopg://h/m?user=u&password=***\n" in log.read_text()
    assert "ValueError: password is ***" in log.read_text()


def test_an_unexpected_error_is_a_traceback_without_the_password(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.submit()
    monkeypatch.setattr(lab.store.__class__, "counts", lambda _: 1 / int(URL))
    done = lab.call("status")
    assert done.code == exits.FAILED
    assert "ValueError" in done.err and MARK not in done.err


@pytest.mark.parametrize("url", [f"s3://AKIA:{MARK}@bucket/runs", f"s3://bucket/runs?token={MARK}"])
def test_a_storage_whose_url_names_a_password_is_refused(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    lab.leave()
    monkeypatch.setenv("RUNNER_STORAGE", url)
    done = lab.call("submit", lab.file())
    assert done.code == exits.USAGE and done.err.count("\n") == 1
    assert "AWS_SECRET_ACCESS_KEY" in done.err and MARK not in done.err
