"""Credentials in addresses are recognised, and never shown; nor is where one's own files lie."""

import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.common.secrets import hide_in_tracebacks, holds_secret, public, without_folder

SAFE = st.text("abcXYZ019-._~", min_size=1)
ODD = st.text("abc019:@-._~%!", min_size=1)  # of a password: pasted as it is


@given(user=SAFE, password=ODD, host=SAFE, path=SAFE, token=SAFE)
def test_no_credential_survives(user: str, password: str, host: str, path: str, token: str) -> None:
    address = f"https://{user}:{password}@{host}/{path}?token={token}#x"
    expected = f"https://{host}/{path}"
    assert public(address) == expected
    assert public(f"cannot open '{address}', sorry") == f"cannot open '{expected}', sorry"
    assert holds_secret(address)


@pytest.mark.parametrize(
    ("address", "secret", "shown"),
    [
        ("https://a.b/c.txt", False, "https://a.b/c.txt"),
        ("https://a.b:80/@c/d@e.txt", False, "https://a.b:80/@c/d@e.txt"),
        ("https://a.b/c.txt?format=txt", False, "https://a.b/c.txt"),
        ("https://ghp_x@a.b/c.txt", True, "https://a.b/c.txt"),
        ("https://u:p/q@a.b/c.txt", True, "https://a.b/c.txt"),
        ("https://a.b/c.txt?X-Amz-Signature=x", True, "https://a.b/c.txt"),
        ("https://u:p?q#r@a.b/c.txt", True, "https://a.b/c.txt"),
        ("https://a.b:80?mail=a@b", False, "https://a.b:80"),
        ("s3://bucket/a.txt", False, "s3://bucket/a.txt"),
        ("s3://key:secret@bucket/a.txt", True, "s3://bucket/a.txt"),
        ("ssh://me@host/a.txt", False, "ssh://host/a.txt"),
        ("postgresql://u:p@host/db", True, "postgresql://host/db"),
        ("hf:a/b@main", False, "hf:a/b@main"),
        ("notes: a@b?token=c", False, "notes: a@b?token=c"),
    ],
)
def test_what_is_a_secret_and_what_is_shown(address: str, secret: bool, shown: str) -> None:
    assert holds_secret(address) == secret
    assert public(address) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("texts/*.txt", "texts/*.txt"),
        ("/home/me/texts/*.txt", "*.txt"),
        ("~/texts", "texts"),
        ("../me/texts/a.txt", "a.txt"),
        ("file:///home/me/a.txt", "a.txt"),
        ("https://u:p@a.b/c/d.txt?token=e", "https://a.b/c/d.txt"),
        ("hf:a/b@main", "hf:a/b@main"),
        ("models:/a@champion", "models:/a@champion"),
    ],
)
def test_a_file_of_ones_own_has_a_name_and_no_place(name: str, shown: str) -> None:
    assert without_folder(name) == shown


def test_a_traceback_holds_no_credential(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    hide_in_tracebacks()

    def fail() -> None:
        raise ValueError("https://me:hush@a.b/c?token=hush")

    try:
        fail()
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    said = capsys.readouterr().err
    assert said.count("ValueError: https://a.b/c\n") == 2
    assert "hush" not in said
