from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_autoresearch.redaction import plain, redact, secrets_in

SECRETS = {
    "an OpenAI key": "sk-proj-abcdefgh12345678",
    "a JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "an AWS key": "AKIAIOSFODNN7EXAMPLE",
    "a GitHub token": "ghp_abcdefghijklmnopqrst",
    "a Hugging Face token": "hf_abcdefghijklmnopqrst",
    "a W&B key": "wandb_v1_abcdefghijklmnopqrst",
    "a private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_what_has_the_shape_of_a_key_is_redacted(secret: str) -> None:
    assert redact(f"before {secret} after") == "before [redacted] after"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer [redacted]"),
        ("http://me:hunter22@host/x", "http://[redacted]@host/x"),
        ("https://token@host/x", "https://[redacted]@host/x"),
        ('{"api_key": "abcdef123"}', '{"api_key": "[redacted]"}'),
        ("WANDB_API_KEY=0123456789abcdef", "WANDB_API_KEY=[redacted]"),
        ("password: hunter22,", "password: [redacted],"),
    ],
)
def test_what_stands_where_a_secret_stands_is_redacted(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "val_bpb improved from 3.41 to 3.20 with lr 0.003",
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (8x64 and 32x64)",
        "a skip-connection and a task-specific head",
        "see https://arxiv.org/abs/2203.03466 for the rule",
        "tokens: 120, token budget 3",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_values_of_secret_variables_are_known_by_their_names() -> None:
    environ = {"HF_TOKEN": "value-one", "db_password": "value-two", "HOME": "/home/me", "SHORT_KEY": "abc"}
    assert secrets_in(environ) == {"value-one", "value-two"}


def test_a_secret_that_contains_another_one_is_redacted_whole() -> None:
    assert redact("x=abcdef123", secrets=["abcdef", "abcdef123"]) == "x=[redacted]"


@given(st.text(max_size=200), st.text(alphabet="abcdefghij0123456789-", min_size=8, max_size=30))
def test_a_known_secret_never_survives(text: str, secret: str) -> None:
    assert secret not in redact(f"{text}{secret}{text}", secrets=[secret]).replace("[redacted]", "")


def test_escape_sequences_and_control_characters_go() -> None:
    assert plain("\x1b[31mred\x1b[0m\x07 and\u200b \u202ewhite\r\nnext\ttab", most=99) == "red and white\nnext\ttab"


@given(st.text(max_size=300), st.integers(min_value=0, max_value=100))
def test_a_cut_text_is_never_longer_than_asked(text: str, most: int) -> None:
    assert len(plain(text, most=most)) <= most


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    cut = plain("a" * 100 + "z" * 100, most=60)
    assert cut.startswith("aaa")
    assert cut.endswith("zzz")
    assert " [...] " in cut
