"""The browser of the report's tests, for the pages of the site."""

from tests.report.browser.conftest import chromium, open_tab

__all__ = ["chromium", "open_tab"]
