"""What the crawler's programs share: settings, the session cookie, requests, atomic files.

Settings come from the environment, so that one line in `schedules/crawler.toml` changes them for
every job. Everything that waits has a deadline; everything that is stored is written beside its
place and renamed, so that a program killed in the middle leaves no half file.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn, Optional

SITE = os.environ.get("CRAWLER_SITE", "http://127.0.0.1:8321").rstrip("/")
VAR = Path(os.environ.get("CRAWLER_VAR") or Path(__file__).resolve().parent / "var")
PAGES = VAR / "pages"
COOKIE_FILE = VAR / "cookie.json"

# Exit codes that `retry` in the schedule can name.
EXIT_FAILED = 1
EXIT_USAGE = 2  # wrong arguments or credentials: trying again does not help
EXIT_COOKIE = 3  # no cookie, or one that has expired: `cookie-refresh` has to run first
EXIT_GONE = 4  # the page does not exist (any more)

REQUEST_TIMEOUT_SECONDS = 10.0
MAX_PAGE_BYTES = 1 << 20
SITE_HEADER = "X-Crawler-Site"


def fail(code: int, message: str) -> NoReturn:
    """Ends the program with a message that a person can act on."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(timezone.utc)


def parse_time(text: str) -> datetime:
    """Reads an RFC 3339 time (`fromisoformat` of Python 3.9 knows neither `Z` nor nanoseconds)."""
    head, fraction = text.strip().replace("Z", "+00:00").replace("z", "+00:00"), ""
    if "." in head:
        head, _, tail = head.partition(".")
        digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
        fraction, head = digits[:6].ljust(6, "0"), head + tail[len(digits) :]
    parsed = datetime.fromisoformat(head)
    if parsed.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC")
    return parsed.replace(microsecond=int(fraction or 0))


def store(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Puts `data` at `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def report(**result: Any) -> None:
    """Says what was done: to a person, and to the file that the worker records as the result."""
    text = json.dumps(result, sort_keys=True)
    print(text)
    target = os.environ.get("ORCHESTRATOR_RESULT")
    if target:
        Path(target).write_text(text + "\n", encoding="utf-8")


def wait_for_site() -> None:
    """Waits until the site answers; at the first start it comes up beside the first crawl."""
    seconds = float(os.environ.get("CRAWLER_WAIT", "8"))
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(SITE + "/health", timeout=2) as answer:
                if answer.headers.get(SITE_HEADER):
                    return
                fail(EXIT_FAILED, f"what answers at {SITE} is not the example site")
        except urllib.error.HTTPError as error:
            fail(EXIT_FAILED, f"what answers at {SITE} is not the example site: {error}")
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= deadline:
                fail(EXIT_FAILED, f"no site at {SITE} within {seconds:g} s: {error}")
        time.sleep(0.1)


def cookie() -> str:
    """The session cookie; ends the program if there is none or if it has expired."""
    try:
        kept = json.loads(COOKIE_FILE.read_text(encoding="utf-8"))
        value, expires_at = kept["cookie"], parse_time(kept["expires_at"])
    except FileNotFoundError:
        fail(EXIT_COOKIE, f"no cookie in {COOKIE_FILE}; run the job `cookie-refresh` first")
    except (ValueError, KeyError, TypeError) as error:
        fail(EXIT_COOKIE, f"{COOKIE_FILE} is not a cookie ({error}); run `cookie-refresh` again")
    if expires_at <= now():
        fail(EXIT_COOKIE, f"the cookie expired at {expires_at.isoformat()}; run `cookie-refresh`")
    return value


def absolute(url: str) -> str:
    """The address with its host; refuses every other site, because requests carry the cookie."""
    whole = urllib.parse.urljoin(SITE + "/", url)
    wanted, found = urllib.parse.urlsplit(SITE), urllib.parse.urlsplit(whole)
    if (found.scheme, found.netloc) != (wanted.scheme, wanted.netloc):
        fail(EXIT_USAGE, f"{url} is not on {SITE}")
    return whole


def get(url: str, session: str) -> bytes:
    """Fetches a page of the site with the session cookie."""
    request = urllib.request.Request(absolute(url), headers={"Cookie": f"session={session}"})
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_SECONDS) as answer:
            body = answer.read(MAX_PAGE_BYTES + 1)
    except urllib.error.HTTPError as error:
        if error.code == 403:
            fail(EXIT_COOKIE, f"{url}: 403, the site does not accept the cookie (any more)")
        if error.code in (404, 410):
            fail(EXIT_GONE, f"{url}: {error.code}, there is no such page")
        fail(EXIT_FAILED, f"{url}: {error}")
    except (OSError, http.client.HTTPException) as error:
        fail(EXIT_FAILED, f"{url}: {error}")
    if len(body) > MAX_PAGE_BYTES:
        fail(EXIT_FAILED, f"{url}: more than {MAX_PAGE_BYTES} bytes")
    return body


def page_file(url: str) -> Path:
    """Where a page is stored: `/post/7/comments` is `pages/post-7-comments.html`."""
    parts = urllib.parse.urlsplit(absolute(url))
    name = parts.path.strip("/") + ("-" + parts.query if parts.query else "")
    safe = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
    return PAGES / f"{safe[:120] or 'index'}.html"


def store_page(url: str, body: bytes) -> Optional[Path]:
    """Stores a page; `None` if exactly this was stored already."""
    path = page_file(url)
    if path.exists() and path.read_bytes() == body:
        return None
    store(path, body)
    return path
