"""Crawls the list of posts.

    crawl.py --since TIME     stores the posts from TIME on that are not stored yet; without a TIME
                              (the first run) those of the first list page
    crawl.py --full           walks the whole list and has every missing page fetched

Pages of their own (comments; in a full crawl also the posts) are fetched by runs of the job
`crawl-page`, started with `orchestrator run`: they run side by side, on another queue, each with
its own retries. A page that could not be handed over is missing, so the next crawl finds it again.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Iterator, Optional

from common import (
    EXIT_FAILED,
    EXIT_USAGE,
    absolute,
    cookie,
    fail,
    get,
    page_file,
    parse_time,
    report,
    store_page,
    wait_for_site,
)

MAX_LIST_PAGES = 100
FAN_OUT_TIMEOUT_SECONDS = 10.0
INTERRUPTED = 128 + signal.SIGINT


class ListPage(HTMLParser):
    """Reads one page of the list."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.posts: list[str] = []
        self.comments: list[str] = []
        self.next: Optional[str] = None
        self.feed(body.decode("utf-8", "replace"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        given = dict(attrs)
        href = given.get("href")
        if tag != "a" or not href:
            return
        if given.get("class") == "post":
            self.posts.append(href)
        elif given.get("class") == "comments":
            self.comments.append(href)
        elif given.get("rel") == "next":
            self.next = href


@dataclass
class Crawl:
    """One pass over the list, and what it came to."""

    session: str
    max_fan_out: int
    listed: int = 0
    stored: int = 0
    started: list[str] = field(default_factory=list)
    left: int = 0
    fan_out_error: Optional[str] = None

    def list_pages(self, since: Optional[str]) -> Iterator[ListPage]:
        query = "?" + urllib.parse.urlencode({"since": since}) if since else ""
        target: Optional[str] = "/posts" + query
        for _ in range(MAX_LIST_PAGES):
            if target is None:
                return
            page = ListPage(get(target, self.session))
            self.listed += len(page.posts)
            yield page
            target = page.next
        print(f"warning: stopped after {MAX_LIST_PAGES} pages of the list", file=sys.stderr)

    def incremental(self, since: Optional[str]) -> None:
        for page in self.list_pages(since):
            # Oldest first, so that what is stored after a failure has no holes before it.
            for url in reversed(page.posts):
                if not page_file(url).exists() and store_page(url, get(url, self.session)):
                    self.stored += 1
            for url in page.comments:
                self.hand_over(url)
            if since is None:
                return

    def full(self) -> None:
        for page in self.list_pages(None):
            for url in page.posts + page.comments:
                self.hand_over(url)

    def hand_over(self, url: str) -> None:
        """Starts a run of `crawl-page` for a page that is not stored."""
        if page_file(url).exists():
            return
        if self.fan_out_error or len(self.started) >= self.max_fan_out:
            self.left += 1
            return
        self.fan_out_error = start_page_job(absolute(url))
        if self.fan_out_error:
            self.left += 1
        else:
            self.started.append(url)

    def report(self) -> None:
        report(listed=self.listed, stored=self.stored, started=len(self.started), left=self.left)


def start_page_job(url: str) -> Optional[str]:
    """Starts `crawl-page` for `url`; returns what went wrong, if anything."""
    program = os.environ.get("ORCHESTRATOR_BIN") or "orchestrator"
    argv = [program, "run", "crawl-page", "--arg", f"url={url}"]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=FAN_OUT_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode != 0:
        return f"`{program} run` ended with {done.returncode}: {done.stderr.strip()[-500:]}"
    return None


def time_or_nothing(text: str) -> Optional[str]:
    """`{last_success}` is empty before the first success."""
    if not text.strip():
        return None
    try:
        return parse_time(text).isoformat()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an RFC 3339 time: {error}") from error


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Crawls the list of posts.")
    parser.add_argument("--since", type=time_or_nothing, metavar="TIME")
    parser.add_argument("--full", action="store_true", help="walk the whole list")
    parser.add_argument("--max-fan-out", type=int, default=20, metavar="N")
    given = parser.parse_args()
    if given.full and given.since:
        fail(EXIT_USAGE, "--full and --since exclude each other")
    return given


def main() -> None:
    given = arguments()
    # A run that is ended with SIGTERM reports how far it came, like one ended with SIGINT.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wait_for_site()
    crawl = Crawl(cookie(), given.max_fan_out)
    try:
        if given.full:
            crawl.full()
        else:
            crawl.incremental(given.since)
    except KeyboardInterrupt:
        crawl.report()
        fail(INTERRUPTED, "interrupted; what was stored stays")
    crawl.report()
    if crawl.fan_out_error:
        fail(EXIT_FAILED, f"could not start `crawl-page`: {crawl.fan_out_error}")


if __name__ == "__main__":
    main()
