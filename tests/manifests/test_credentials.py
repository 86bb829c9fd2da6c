"""Names and texts that carry passwords and keys are told from those that only look so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.credentials import (
    carried,
    credentials_in,
    entries_in,
    is_secret_name,
    secrets_of,
)

SECRET_NAMES = [
    "password",
    "PASSWORD",
    "Password",
    "db_password",
    "dbpassword",
    "password2",
    "password_1",
    "passphrase",
    "pwd",
    "secret",
    "client-secret",
    "clientSecret",
    "token",
    "hf_token",
    "HF-TOKEN",
    "auth_tokens",
    "jwt",
    "api_key",
    "apikey",
    "apiKey",
    "API-Key",
    "APIKEY",
    "x-api-key",
    "access_key",
    "accessKey",
    "AWS_ACCESS_KEY_ID",
    "aws-secret-access-key",
    "AWSSecretAccessKey",
    "private_key",
    "privatekey",
    "credential",
    "credentials",
    "Credentials",
    "authorization",
    "Authorization",
    "session_token",
    "sessionToken",
    "X-Amz-Security-Token",
    "passwords",
    "passWord",
    "pass_phrase",
    "password_new",
    "dbpwd",
    "clientsecret",
    "hftoken",
    "token_prod",
    "tOkEn",
    "api_key_openai",
    "secret_key_base",
    "credentials_json",
    "storage_account_key",
    "AccountKey",
    "ssh-key",
    "connectionString",
    "proxy-auth",
]

INNOCENT_NAMES = [
    "key",
    "keyword",
    "keys",
    "key_id",
    "primary_key",
    "hotkey",
    "monkey",
    "tokenizer",
    "tokenised",
    "tokens",
    "num_tokens",
    "token_ids",
    "token_count",
    "token_id",
    "storage_key",
    "shared_key",
    "public_key",
    "color_key",
    "password_free",
    "render_pass",
    "cookies",
    "authentic",
    "max_tokens_2",
    "secretary",
    "secret_garden",
    "signature",
    "author",
    "authorship",
    "credits",
    "content",
    "style_license",
    "accessible",
    "passport",
    "passage",
    "private_collection",
    "api_version",
]

CARRIERS = [
    "s3://AKIA:abc/d+f=@bucket/x",
    "https://u:hunter2@h/x.png",
    "https://hunter2@github.com/x",
    "https://u:123@h/",
    "https://:hunter2@h/",
    "http://u:1234567@h",
    "http://h/x?X-Amz-Signature=ab",
    "http://h/x?a=b&sig=zz",
    "http://h/x?token=1",
    "https://h/x?auth=1",
    "https://a.blob.core.windows.net/c/a.png?sv=2022-11-02&sr=b&sig=ab%3D",
    "see(https://h/x#access_token=1)",
    "s3://b/x?AWSAccessKeyId=a&Signature=b",
    "http://h/x?X%2DAmz%2DSignature=1",
    "file:///a?password=b",
]

INNOCENT_TEXTS = [
    "s3://bucket/a:b@c.png",
    "http://h:8080/x@y",
    "http://h:80/?q=a@b",
    "https://mastodon.social/@user",
    "https://www.flickr.com/photos/1@N0/2",
    "http://h/x?tokens=4",
    "http://h/x?key=1",
    "http://h/x?a=b&v=1",
    "a@b.c",
    "foo:bar@x",
    "content/a.png?token=1",
    "http://[::1]:80/a@b",
]


@pytest.mark.parametrize("name", [*SECRET_NAMES, "api key", " Secret "])
def test_a_name_of_secrets_is_one(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", INNOCENT_NAMES)
def test_a_name_that_only_looks_so_is_none(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize("text", CARRIERS)
def test_credentials_in_a_uri_are_found_at_any_depth_and_not_repeated(text):
    ((path, found),) = carried({"a": [{"b": f"by {text} of 1889"}, 1, None]})
    assert path == ("a", "b")
    assert "hunter2" not in found


@pytest.mark.parametrize("text", INNOCENT_TEXTS)
def test_other_uris_carry_none(text):
    assert credentials_in(text) is None


def test_the_keys_of_a_value_are_those_at_every_depth():
    assert {name for name, _ in entries_in([{"a": {"b": [{"c": 1}]}}, "d"])} == {"a", "b", "c"}


@pytest.mark.parametrize("piece", ["a-", "://", "://a:", "a://b:", "?a=", "&", "@", ":", "A", "a"])
def test_no_text_takes_long(piece):
    credentials_in("://" + piece * 100_000)  # some patterns would take hours
    is_secret_name(piece * 100_000)


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_whatever_a_value_is_it_is_looked_through(value):
    list(carried(value))
    list(entries_in(value))


def test_what_variables_hold_is_known_whole_and_in_parts():
    environment = {
        "AWS_ACCESS_KEY_ID": "of-nobody",
        "AWS_SECRET_ACCESS_KEY": "key/of+studio",
        "PREFECT_API_AUTH_STRING": "admin:of-server",
        "HTTP_PROXY": "http://user:of-proxy/x@h:1",
        "HF_TOKEN": "short",
        "PWD": "/home/of-nobody",
        "OLDPWD": "/home/of-nobody",
    }
    assert set(secrets_of(environment)) == {
        "key/of+studio",
        "admin:of-server",
        "of-server",
        "of-proxy/x",
    }
