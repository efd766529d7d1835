"""Logs in and keeps the session cookie for the crawls."""

from __future__ import annotations

import argparse
import http.client
import http.cookies
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from datetime import timedelta

from common import (
    COOKIE_FILE,
    EXIT_FAILED,
    EXIT_USAGE,
    REQUEST_TIMEOUT_SECONDS,
    SITE,
    fail,
    now,
    report,
    store,
    wait_for_site,
)


def log_in(account: str, password: str) -> http.cookies.Morsel:
    form = urllib.parse.urlencode({"account": account, "password": password}).encode()
    try:
        with urllib.request.urlopen(
            SITE + "/login", data=form, timeout=REQUEST_TIMEOUT_SECONDS
        ) as answer:
            jar = http.cookies.SimpleCookie(answer.headers.get("Set-Cookie", ""))
    except urllib.error.HTTPError as error:
        if error.code == 403:
            fail(EXIT_USAGE, f"the site refuses account `{account}`: wrong name or password")
        fail(EXIT_FAILED, f"login failed: {error}")
    except (OSError, http.client.HTTPException) as error:
        fail(EXIT_FAILED, f"login failed: {error}")
    if "session" not in jar:
        fail(EXIT_FAILED, "login failed: the site set no session cookie")
    return jar["session"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--account", required=True)
    account = parser.parse_args().account
    wait_for_site()
    obtained_at = now()
    session = log_in(account, os.environ.get("CRAWLER_PASSWORD", "demo"))
    expires_at = obtained_at + timedelta(seconds=float(session["max-age"]))
    kept = {
        "account": account,
        "cookie": session.value,
        "obtained_at": obtained_at.isoformat(),
        "expires_at": expires_at.isoformat(),
    }
    store(COOKIE_FILE, json.dumps(kept, indent=2).encode() + b"\n", mode=0o600)
    report(account=account, expires_at=expires_at.isoformat())


if __name__ == "__main__":
    main()
