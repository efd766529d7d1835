"""Drives the programs of examples/crawler without an orchestrator: `python3 tests/examples_crawler.py`.

Each test has a site of its own on a free port and a directory of its own. Nothing sleeps for luck:
what takes time is polled, with a deadline.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parent.parent
CRAWLER = ROOT / "examples" / "crawler"
DEADLINE_SECONDS = 30.0

EXIT_FAILED, EXIT_USAGE, EXIT_COOKIE, EXIT_GONE = 1, 2, 3, 4

FAKE_ORCHESTRATOR = """#!/bin/sh
printf '%s\\n' "$*" >> "$FAKE_CALLS"
if [ -n "$FAKE_FAILS" ]; then echo "error: no broker" >&2; exit 5; fi
"""


def poll(what: str, condition: Callable[[], Any]) -> Any:
    """Waits until `condition` gives something true, and returns that."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE_SECONDS:g} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def quiet_period_seconds() -> float:
    """A time between posts under which post 1000 is the newest, and stays so for hours."""
    first_post_at = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()
    return (time.time() - first_post_at) / 1000.5


class CrawlerTest(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="crawler-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.var = self.directory / "var"
        self.pages = self.var / "pages"
        self.calls = self.directory / "calls"
        fake = self.directory / "orchestrator"
        fake.write_text(FAKE_ORCHESTRATOR)
        fake.chmod(0o755)
        self.site = f"http://127.0.0.1:{free_port()}"
        self.env = {
            **os.environ,
            "CRAWLER_SITE": self.site,
            "CRAWLER_VAR": str(self.var),
            "CRAWLER_WAIT": str(DEADLINE_SECONDS),
            "CRAWLER_POST_EVERY": f"{quiet_period_seconds():.3f}",
            "ORCHESTRATOR_BIN": str(fake),
            "FAKE_CALLS": str(self.calls),
            "FAKE_FAILS": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start_site(self, **env: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "demo_site.py"]
        site = subprocess.Popen(
            argv,
            cwd=CRAWLER,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(self.stop, site)
        return site

    def stop(self, site: subprocess.Popen[str]) -> None:
        if site.poll() is None:
            site.terminate()
        site.communicate(timeout=DEADLINE_SECONDS)

    def call(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *argv],
            cwd=CRAWLER,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_SECONDS,
        )

    def ok(self, *argv: str, **env: str) -> dict[str, Any]:
        """Calls a program that has to succeed, and returns what it put into the result file."""
        result = self.directory / "result.json"
        done = self.call(*argv, ORCHESTRATOR_RESULT=str(result), **env)
        self.assertEqual(done.returncode, 0, done.stderr)
        return dict(json.loads(result.read_text()))

    def fails(self, code: int, message: str, *argv: str, **env: str) -> str:
        done = self.call(*argv, **env)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertIn(message, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done.stderr

    def log_in(self) -> dict[str, Any]:
        return self.ok("login.py", "--account", "main")

    def stored(self) -> set[str]:
        names = {path.name for path in self.pages.iterdir()} if self.pages.exists() else set()
        self.assertFalse([name for name in names if name.endswith(".tmp")])
        return names

    def requested(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


class Cookies(CrawlerTest):
    def test_nothing_works_without_a_cookie(self) -> None:
        self.start_site()
        for program in (["crawl.py", "--since", ""], ["crawl.py", "--full"], ["page.py", "/posts"]):
            self.fails(EXIT_COOKIE, "cookie-refresh", *program)
        self.assertEqual(self.stored(), set())

    def test_an_expired_cookie_is_known_before_a_request(self) -> None:
        self.start_site(CRAWLER_COOKIE_TTL="0.2")
        self.log_in()
        self.wait_until_expired()
        self.fails(EXIT_COOKIE, "the cookie expired at", "crawl.py", "--since", "")
        self.assertEqual(self.stored(), set())

    def test_the_site_refuses_an_expired_cookie(self) -> None:
        self.start_site(CRAWLER_COOKIE_TTL="0.2")
        self.log_in()
        expires_at = self.wait_until_expired()
        path = self.var / "cookie.json"
        kept = json.loads(path.read_text())
        kept["expires_at"] = expires_at.replace("20", "29", 1)
        path.write_text(json.dumps(kept))
        self.fails(EXIT_COOKIE, "403", "crawl.py", "--since", "")
        self.fails(EXIT_COOKIE, "403", "page.py", "/posts")
        self.assertEqual(self.stored(), set())

    def wait_until_expired(self) -> str:
        kept = json.loads((self.var / "cookie.json").read_text())
        poll("the cookie expires", lambda: float(kept["cookie"].split(":")[1]) < time.time())
        return str(kept["expires_at"])

    def test_the_cookie_is_kept_for_its_owner_only(self) -> None:
        self.start_site()
        self.assertEqual(self.log_in()["account"], "main")
        self.assertEqual((self.var / "cookie.json").stat().st_mode & 0o777, 0o600)

    def test_a_damaged_cookie_file_is_no_cookie(self) -> None:
        self.start_site()
        self.var.mkdir()
        for text in ("", "{}", "[]", '{"cookie": "x", "expires_at": "soon"}'):
            (self.var / "cookie.json").write_text(text)
            self.fails(EXIT_COOKIE, "is not a cookie", "crawl.py", "--since", "")

    def test_a_wrong_password_is_not_worth_a_retry(self) -> None:
        self.start_site()
        argv = ["login.py", "--account", "main"]
        self.fails(EXIT_USAGE, "wrong name or password", *argv, CRAWLER_PASSWORD="guess")
        self.assertFalse((self.var / "cookie.json").exists())


class Site(CrawlerTest):
    def test_a_login_waits_for_a_site_that_is_coming_up(self) -> None:
        argv = [sys.executable, "login.py", "--account", "main"]
        login = subprocess.Popen(argv, cwd=CRAWLER, env=self.env, stdout=subprocess.DEVNULL)
        self.addCleanup(login.kill)
        self.start_site()
        self.assertEqual(login.wait(timeout=2 * DEADLINE_SECONDS), 0)
        self.assertTrue((self.var / "cookie.json").exists())

    def test_no_site_is_an_error_and_not_a_wait_for_ever(self) -> None:
        argv = ["login.py", "--account", "main"]
        self.fails(EXIT_FAILED, f"no site at {self.site}", *argv, CRAWLER_WAIT="0.3")

    def test_a_taken_port_is_named(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken = f"http://127.0.0.1:{other.getsockname()[1]}"
            error = self.fails(EXIT_FAILED, taken, "demo_site.py", CRAWLER_SITE=taken)
        self.assertIn("CRAWLER_SITE", error)

    def test_sessions_outlive_a_restart(self) -> None:
        first = self.start_site()
        self.log_in()
        self.stop(first)
        self.assertEqual(first.returncode, 0)
        self.start_site()
        self.assertEqual(self.ok("crawl.py", "--since", "")["stored"], 10)


class Crawls(CrawlerTest):
    def test_an_incremental_crawl_stores_pages_and_asks_for_comments(self) -> None:
        self.start_site()
        self.log_in()
        result = self.ok("crawl.py", "--since", "")
        self.assertEqual((result["listed"], result["stored"], result["left"]), (10, 10, 0))
        self.assertEqual(len(self.stored()), 10)
        self.assertIn("<title>Post ", next(self.pages.iterdir()).read_text())
        self.assertEqual(result["started"], len(self.requested()))
        self.assertEqual(result["started"], 3)  # of the posts 991 to 1000
        pattern = rf"run crawl-page --arg url={re.escape(self.site)}/post/\d+/comments"
        for call in self.requested():
            self.assertRegex(call, f"^{pattern}$")

    def test_the_next_one_stores_only_what_is_new(self) -> None:
        self.start_site(CRAWLER_POST_EVERY="0.5")
        self.log_in()
        self.ok("crawl.py", "--since", "")
        before = {path: path.stat().st_mtime_ns for path in self.pages.iterdir()}
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        result = poll(
            "a new post is stored",
            lambda: (r := self.ok("crawl.py", "--since", since))["stored"] > 0 and r,
        )
        after = {path: path.stat().st_mtime_ns for path in self.pages.iterdir()}
        self.assertGreaterEqual(len(after) - len(before), result["stored"])
        self.assertEqual({path: after[path] for path in before}, before)

    def test_nothing_new_is_a_success(self) -> None:
        self.start_site()
        self.log_in()
        since = time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime(time.time() + 3600))
        result = self.ok("crawl.py", "--since", since)
        self.assertEqual(result, {"listed": 0, "stored": 0, "started": 0, "left": 0})

    def test_a_failed_hand_over_fails_the_run_but_not_its_pages(self) -> None:
        self.start_site()
        self.log_in()
        argv = ["crawl.py", "--since", ""]
        error = self.fails(EXIT_FAILED, "could not start `crawl-page`", *argv, FAKE_FAILS="1")
        self.assertIn("no broker", error)
        self.assertEqual(len(self.stored()), 10)
        self.assertEqual(len(self.requested()), 1)
        missing = str(self.directory / "nowhere")
        self.fails(EXIT_FAILED, missing, *argv, ORCHESTRATOR_BIN=missing)
        self.calls.unlink()
        result = self.ok(*argv)
        self.assertEqual(result["stored"], 0)
        self.assertEqual(len(self.requested()), result["started"])
        self.assertGreater(result["started"], 0)

    def test_a_full_crawl_fans_out_for_every_missing_page(self) -> None:
        self.start_site()
        self.log_in()
        self.ok("crawl.py", "--since", "")
        self.calls.unlink()
        result = self.ok("crawl.py", "--full", "--max-fan-out", "12")
        self.assertEqual((result["listed"], result["stored"]), (200, 0))
        self.assertEqual(result["started"], 12)
        # 190 posts, and the comments of every third of all 200 (801 to 1000), are missing.
        self.assertEqual(result["started"] + result["left"], 190 + 67)
        calls = self.requested()
        self.assertEqual(len(set(calls)), 12)
        stored = {f"/post/{name[5:-5]}" for name in self.stored()}
        for call in calls:
            self.assertNotIn(call.split(self.site)[1], stored)

    def test_an_interrupted_crawl_says_how_far_it_came(self) -> None:
        self.start_site()
        self.log_in()
        blocking = self.directory / "blocking"
        blocking.write_text('#!/bin/sh\ntouch "$FAKE_CALLS"\nexec sleep 60\n')
        blocking.chmod(0o755)
        crawl = subprocess.Popen(
            [sys.executable, "crawl.py", "--full"],
            cwd=CRAWLER,
            env={**self.env, "ORCHESTRATOR_BIN": str(blocking)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Who runs this in the background has it ignored, and so has every child.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.addCleanup(crawl.kill)
        poll("the crawl hands a page over", self.calls.exists)
        crawl.send_signal(signal.SIGINT)
        output, error = crawl.communicate(timeout=DEADLINE_SECONDS)
        self.assertEqual(crawl.returncode, 130, error)
        self.assertIn("interrupted", error)
        self.assertEqual(json.loads(output)["listed"], 10)

    def test_a_wrong_time_is_a_usage_error(self) -> None:
        for text in ("yesterday", "2026-11-23T02:30:00"):
            self.fails(EXIT_USAGE, "RFC 3339", "crawl.py", "--since", text)


class Pages(CrawlerTest):
    def a_post(self) -> str:
        self.ok("crawl.py", "--since", "")
        name = sorted(self.stored())[0]
        shutil.rmtree(self.pages)
        return f"/post/{name[5:-5]}"

    def test_a_page_is_fetched_and_stored_once(self) -> None:
        self.start_site()
        self.log_in()
        path = self.a_post()
        result = self.ok("page.py", self.site + path)
        self.assertTrue(result["stored"])
        self.assertEqual(self.stored(), {path.strip("/").replace("/", "-") + ".html"})
        self.assertFalse(self.ok("page.py", path)["stored"])

    def test_what_does_not_exist_is_gone(self) -> None:
        self.start_site()
        self.log_in()
        self.fails(EXIT_GONE, "404", "page.py", "/post/1")
        self.fails(EXIT_GONE, "404", "page.py", "/../../etc/passwd")
        self.assertEqual(self.stored(), set())

    def test_the_cookie_goes_to_no_other_site(self) -> None:
        self.start_site()
        self.log_in()
        for url in ("http://127.0.0.1:1/post/1", "file:///etc/passwd", "//example.org/post/1"):
            self.fails(EXIT_USAGE, "is not on", "page.py", url)


class Schedules(CrawlerTest):
    def job(self, name: str) -> dict[str, Any]:
        schedules = tomllib.loads((ROOT / "schedules" / "crawler.toml").read_text())
        return {**schedules["defaults"], **schedules["job"][name]}

    def test_every_program_of_the_schedules_is_there(self) -> None:
        schedules = tomllib.loads((ROOT / "schedules" / "crawler.toml").read_text())
        for name in schedules["job"]:
            job = self.job(name)
            directory = (ROOT / "schedules" / job["working_dir"]).resolve()
            self.assertEqual(directory, CRAWLER)
            if "command" in job:
                self.assertTrue((directory / job["command"][1]).is_file(), name)

    def test_clean_up_removes_what_is_older_than_a_week(self) -> None:
        script = self.job("cleanup")["shell"]
        self.clean_up(script)
        old, new = self.pages / "old.html", self.pages / "new.html"
        for path in (old, new):
            path.write_text("x")
        eight_days_ago = time.time() - 8 * 86400
        os.utime(old, (eight_days_ago, eight_days_ago))
        self.clean_up(script)
        self.assertEqual(self.stored(), {"new.html"})

    def clean_up(self, script: str) -> None:
        argv = ["/bin/sh", "-c", script]
        done = subprocess.run(argv, cwd=CRAWLER, env=self.env, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
