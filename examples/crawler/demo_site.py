"""A small site on loopback to crawl: behind a login, and growing while one looks.

A new post appears every `CRAWLER_POST_EVERY` seconds (default 3), and the newest 200 can be read.
What it shows is a function of the time alone, so it can be restarted at any moment. All but
`/health` and `/login` answer 403 without a session cookie; a cookie is good for
`CRAWLER_COOKIE_TTL` seconds (default one day).

    GET  /health              is the site up?
    POST /login               account=…&password=…: sets the cookie
    GET  /posts?since=&page=  the posts from the instant `since` on, newest first, ten a page
    GET  /post/ID             a post
    GET  /post/ID/comments    its comments; every third post has some
"""

from __future__ import annotations

import hashlib
import hmac
import html
import os
import signal
import sys
import time
import urllib.parse
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NoReturn, Optional

from common import EXIT_FAILED, EXIT_USAGE, SITE, SITE_HEADER, fail, parse_time

POST_EVERY_SECONDS = float(os.environ.get("CRAWLER_POST_EVERY", "3"))
COOKIE_TTL_SECONDS = float(os.environ.get("CRAWLER_COOKIE_TTL", "86400"))
PASSWORD = os.environ.get("CRAWLER_PASSWORD", "demo")
FIRST_POST_AT = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()
SHOWN_POSTS = 200
POSTS_PER_PAGE = 10
MAX_FORM_BYTES = 4096
# A demonstration guards nothing; a fixed key lets sessions outlive a restart of the site.
KEY = b"orchestrator example site"


def newest_post() -> int:
    return int((time.time() - FIRST_POST_AT) / POST_EVERY_SECONDS)


def published(post: int) -> datetime:
    return datetime.fromtimestamp(FIRST_POST_AT + post * POST_EVERY_SECONDS, timezone.utc)


def has_comments(post: int) -> bool:
    return post % 3 == 0


def is_shown(post: int) -> bool:
    newest = newest_post()
    return newest - SHOWN_POSTS < post <= newest


def sign(account: str, expires: float) -> str:
    text = f"{account}:{expires:.3f}"
    return f"{text}:{hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()}"


def session_is_valid(cookie_header: Optional[str]) -> bool:
    for part in (cookie_header or "").split(";"):
        name, _, value = part.strip().partition("=")
        if name != "session":
            continue
        try:
            account, expires, _ = value.split(":")
            until = float(expires)
        except ValueError:
            return False
        return hmac.compare_digest(sign(account, until), value) and until > time.time()
    return False


def document(title: str, *body: str) -> bytes:
    text = "\n".join(body)
    return (
        f"<!doctype html>\n<title>{html.escape(title)}</title>\n"
        f"<h1>{html.escape(title)}</h1>\n{text}\n"
    ).encode()


def listing(since: Optional[datetime], page: int) -> bytes:
    newest = newest_post()
    shown = range(newest, newest - SHOWN_POSTS, -1)
    posts = [post for post in shown if since is None or published(post) >= since]
    start = page * POSTS_PER_PAGE
    rows = []
    for post in posts[start : start + POSTS_PER_PAGE]:
        at = published(post).isoformat()
        row = f'<li><a class="post" href="/post/{post}">Post {post}</a> <time>{at}</time>'
        if has_comments(post):
            row += f' <a class="comments" href="/post/{post}/comments">comments</a>'
        rows.append(row + "</li>")
    further = []
    if start + POSTS_PER_PAGE < len(posts):
        query = {"page": str(page + 1)}
        if since is not None:
            query["since"] = since.isoformat()
        target = html.escape("/posts?" + urllib.parse.urlencode(query))
        further.append(f'<a rel="next" href="{target}">older</a>')
    return document("Posts", "<ul>", *rows, "</ul>", *further)


def post_page(post: int) -> bytes:
    text = hashlib.sha256(f"post {post}".encode()).hexdigest()
    return document(f"Post {post}", f"<time>{published(post).isoformat()}</time>", f"<p>{text}</p>")


def comments_page(post: int) -> bytes:
    age = newest_post() - post
    rows = [f"<li>Comment {number} on post {post}</li>" for number in range(1, 2 + age // 10)]
    return document(f"Comments on post {post}", "<ol>", *rows, "</ol>")


class Handler(BaseHTTPRequestHandler):
    server_version = "crawler-example"
    timeout = 10

    def do_GET(self) -> None:  # noqa: N802 (the name is the base class's)
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/health":
            self.answer(200, b"ok\n", "text/plain")
        elif not session_is_valid(self.headers.get("Cookie")):
            self.answer(403, document("403: log in first"))
        else:
            self.answer(*self.route(url))

    def route(self, url: urllib.parse.SplitResult) -> tuple[int, bytes]:
        if url.path == "/posts":
            query = urllib.parse.parse_qs(url.query)
            try:
                since = parse_time(query["since"][0]) if "since" in query else None
                page = int(query.get("page", ["0"])[0])
            except ValueError as error:
                return 400, document(f"400: {error}")
            return 200, listing(since, max(page, 0))
        parts = url.path.strip("/").split("/")
        if len(parts) >= 2 and parts[0] == "post" and parts[1].isdecimal():
            post = int(parts[1])
            if parts[2:] == [] and is_shown(post):
                return 200, post_page(post)
            if parts[2:] == ["comments"] and is_shown(post) and has_comments(post):
                return 200, comments_page(post)
        return 404, document("404: no such page")

    def do_POST(self) -> None:  # noqa: N802
        if self.path != "/login":
            self.answer(404, document("404: no such page"))
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_FORM_BYTES:
            self.answer(400, document("400: no form, or too large a form"))
            return
        form = urllib.parse.parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace"))
        account = form.get("account", [""])[0]
        password = form.get("password", [""])[0].encode()
        if not account.isalnum() or not hmac.compare_digest(password, PASSWORD.encode()):
            self.answer(403, document("403: wrong account or password"))
            return
        value = sign(account, time.time() + COOKIE_TTL_SECONDS)
        header = f"session={value}; Path=/; HttpOnly; Max-Age={COOKIE_TTL_SECONDS:g}"
        self.answer(200, document("Welcome"), cookie=header)

    def answer(
        self, status: int, body: bytes, kind: str = "text/html; charset=utf-8", cookie: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header(SITE_HEADER, "1")
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Only what went wrong is worth a line."""
        if not str(getattr(code, "value", code)).startswith("2"):
            super().log_request(code, size)  # type: ignore[arg-type]


def stop(_signal: int, _frame: object) -> NoReturn:
    sys.exit(0)


def main() -> None:
    target = urllib.parse.urlsplit(SITE)
    if target.scheme != "http" or target.port is None or POST_EVERY_SECONDS <= 0:
        fail(EXIT_USAGE, "CRAWLER_SITE is http://HOST:PORT, CRAWLER_POST_EVERY is above 0")
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    ThreadingHTTPServer.daemon_threads = True
    try:
        server = ThreadingHTTPServer((target.hostname or "", target.port), Handler)
    except OSError as error:
        hint = "something else listens there; stop it, or change CRAWLER_SITE"
        fail(EXIT_FAILED, f"cannot listen at {SITE}: {error.strerror} ({hint})")
    with server:
        print(f"the site is at {SITE}, one post every {POST_EVERY_SECONDS:g} s", flush=True)
        server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
