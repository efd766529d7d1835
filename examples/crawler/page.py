"""Fetches one page of the site and stores it: `page.py URL`."""

from __future__ import annotations

import argparse

from common import absolute, cookie, get, report, store_page, wait_for_site


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="an address on the site, whole or from the slash on")
    url = absolute(parser.parse_args().url)
    wait_for_site()
    body = get(url, cookie())
    path = store_page(url, body)
    report(url=url, bytes=len(body), stored=path is not None)


if __name__ == "__main__":
    main()
