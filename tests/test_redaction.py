"""Secrets out of texts."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_autoresearch.redaction import REDACTED, plain, redact, secrets_in, secrets_of, without_secrets
from lightning_autoresearch.spec import ScientistSettings


def test_secrets_are_known_by_the_names_of_their_variables():
    environ = {
        "OPENAI_API_KEY": "value-1",
        "hf_token": "value-2",
        "ClientSecret": "value-3",
        "DB_PASSWD": "value-4",
        "NPM_AUTH": "value-5",
        "AWS_CREDENTIALS": " value-6\n",
        "HOME": "value-7",
        "TOKENIZERS_PARALLELISM": "false",
        "EMPTY_KEY": "",
    }
    assert secrets_in(environ) == {f"value-{number}" for number in range(1, 7)}


SHAPES = {
    "OpenAI": "sk-abcdefghijklmnopqrstuvwx",
    "OpenAI project": "sk-proj-Ab1_cd2-ef3",
    "a masked one": "sk-ab1****************wxyz",
    "Anthropic": "sk-ant-api03-abc-def",
    "Bearer": "Authorization: Bearer abc.def-ghi~1",
    "bearer in lower case": "authorization: bearer abcdef123",
    "Basic": "Authorization: Basic bWU6cGFzcw==",
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4",
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "AWS for a while": "ASIAIOSFODNN7EXAMPLE",
    "AWS secret": "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "GitHub": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "GitHub fine-grained": "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz",
    "Hugging Face": "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "Weights & Biases": "0123456789abcdef0123456789abcdef01234567",
    "Weights & Biases now": "wandb_v1_abcdefghijklmnopqrstuvwxyz",
    "Google": "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "login": "postgresql://me:pass-word@db.example/x",
    "login with a strange password": "https://me:p@ss:w0rd@host/v1",
    "token as a login": "https://0auth-t0ken@github.com/x.git",
    "query": "https://host/v1?api_key=abc123&model=x",
    "PEM": "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\nxyz==\n-----END RSA PRIVATE KEY-----",
    "half a PEM": "-----BEGIN PRIVATE KEY-----\nMIIEabc\nxyz==",
}
KEPT = {
    "Bearer",
    "Authorization:",
    "authorization:",
    "bearer",
    "Basic",
    "aws_secret_access_key",
    "=",
    "before",
    "after",
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_of_keys_are_taken_out(name: str):
    shown = redact(f"before {SHAPES[name]} after")
    assert REDACTED in shown
    assert shown.startswith("before ")
    assert name == "half a PEM" or shown.endswith(" after")
    secret = re.sub(r"^.*(?:[Bb]earer|Basic|= )\s*", "", SHAPES[name])
    secret = re.sub(r"^.*://|@[\w.-]+/.*$|^.*api_key=|&.*$", "", secret)
    assert len(secret) >= 6
    assert secret not in shown


def test_what_is_around_a_secret_stays():
    assert redact("GET https://me:word@host:8000/v1?key=abc&x=1") == (
        f"GET https://{REDACTED}@host:8000/v1?key={REDACTED}&x=1"
    )
    assert redact("Authorization: Bearer abcdefgh, next") == f"Authorization: Bearer {REDACTED}, next"


@pytest.mark.parametrize(
    "text",
    [
        "task-1234567 and disk-0123456789 and sk-learn",
        "model.init_args.lr = 0.003 for 150 steps, val_bpb 1.2345678901234567",
        "a basic understanding of tokens, keys and values",
        "https://host/v1/chat/completions?model=x",
        "mail me@example.org",
        "lightning_autoresearch.integrations.openai",
        "sha256 " + "0123456789abcdef" * 4,
        "x = a if b else c  # http://host/@user",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str):
    assert redact(text) == text


def test_values_are_taken_out_wherever_they_stand_the_longest_first():
    shown = redact("key=hunter2hunter2, in xhunter2x", secrets=["hunter2", "hunter2hunter2", ""])
    assert shown == f"key={REDACTED}, in x{REDACTED}x"


@given(st.text(), st.sets(st.text(min_size=6, max_size=12), max_size=3))
def test_no_given_value_survives(text: str, secrets: set[str]):
    # Unless it is a part of what stands in the place of secrets, or grows together around it.
    shown = redact(text.join(secrets), secrets=secrets)
    parts = shown.split(REDACTED)
    assert not any(secret in part for secret in secrets for part in parts)


@given(st.text(alphabet="sk-Bearer :/@?key=hf_0123456789abcdef[]* \n", max_size=80))
def test_redacting_twice_changes_nothing_more(text: str):
    once = redact(text)
    assert redact(once) == once


@pytest.mark.parametrize(
    "unit", ["sk-", "eyJ", "://", "a" * 39 + " ", "Bearer ", "-----BEGIN PRIVATE KEY-----", "?key="]
)
def test_a_long_text_takes_no_long_time(unit: str):
    began = time.monotonic()
    redact(unit * (200_000 // len(unit)))
    assert time.monotonic() - began < 3


def test_plain_takes_out_what_is_not_seen():
    dirty = "a\x1b[31mred\x1b[0m \x1b]0;title\x07b\x00c\x07 d\u202ee\u200bf\ufeffg\x7f\x9b2Jh\ud800i"
    assert plain(dirty, most=100) == "ared bc defghi"


def test_plain_keeps_lines_tabs_and_letters():
    assert plain("a\tb\r\nc\rd\u2028e ä 漢 🙂", most=100) == "a\tb\nc\nd\ne ä 漢 🙂"


def test_an_escape_sequence_without_an_end_does_not_hide_what_follows():
    assert plain("a\x1b[31", most=100) in ("a", "a31", "a[31")
    assert "\x1b" not in plain("a\x1b]0;title", most=100)


def test_plain_cuts_in_the_middle():
    text = "a" * 50 + "b" * 50
    shown = plain(text, most=27)
    assert shown == "a" * 10 + " [...] " + "b" * 10
    assert plain(text, most=100) == text


@given(st.text(), st.integers(min_value=0, max_value=40))
def test_plain_is_never_longer_than_allowed(text: str, most: int):
    shown = plain(text, most=most)
    assert len(shown) <= most
    assert plain(shown, most=most) == shown
    assert "\x1b" not in shown


def test_the_scientists_key_is_a_secret_whatever_its_variable_is_called():
    environ = {"MYLLM": "plain-word-1", "OTHER_KEY": "value-2", "HOME": "/home/me"}
    settings = ScientistSettings(model="m", base_url="http://x/v1", api_key_env="MYLLM")
    assert secrets_of(settings, environ) == {"plain-word-1", "value-2"}
    assert secrets_of(None, environ) == secrets_of(settings, {**environ, "MYLLM": "word"}) == {"value-2"}


def test_an_environment_without_secrets_keeps_what_is_named_and_drops_what_is_named():
    environ = {
        "OPENAI_API_KEY": "1",
        "wandb_token": "2",
        "DB_PASSWORD": "3",
        "SSH_AUTH_SOCK": "4",
        "GOOGLE_APPLICATION_CREDENTIALS": "5",
        "HF_TOKEN": "6",
        "PATH": "7",
        "MYLLM": "8",
        "TOKENIZERS_PARALLELISM": "false",
    }
    rest = {"HF_TOKEN": "6", "PATH": "7", "TOKENIZERS_PARALLELISM": "false"}
    assert without_secrets(environ, keep=("HF_TOKEN",), drop=("MYLLM",)) == rest
    assert without_secrets(environ, keep=("MYLLM",), drop=("MYLLM",))["MYLLM"] == "8"


def test_a_secret_of_several_lines_is_found_on_one_line_and_without_its_blank_lines():
    secret = "line1secret\n\n  line2secret"
    for said in (secret, "line1secret line2secret", "line1secret\nline2secret"):
        assert redact(f"login failed with {said}!", secrets=[secret]) == f"login failed with {REDACTED}!"
