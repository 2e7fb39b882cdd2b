"""The page, in a browser: somebody types, reads, stops (needs Debian's ``chromium`` and ``pip install playwright``)."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.served import ENDLESS, Served

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]


@pytest.fixture
def page(server: Served) -> Iterator[Any]:
    """The page, whose errors, and requests to elsewhere, fail the test."""
    playwright = pytest.importorskip("playwright.sync_api")
    said: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(server.url)
        yield opened
        browser.close()
    assert [line for line in said if "the server responded with" not in line] == []
    assert [url for url in asked if not url.startswith(server.url)] == []


def answers(page: Any) -> list[str]:
    return list(page.locator("p.assistant").all_text_contents())


def test_turns_are_answered_as_text(page: Any) -> None:
    page.get_by_text("demo-model").wait_for()
    for number, text in enumerate(("A file is", "<b>bold</b>"), 1):
        page.get_by_label("Message").fill(text)
        page.get_by_label("Message").press("Enter")
        page.locator("#send:not([disabled])").wait_for()
        assert len(answers(page)) == number
        assert all(answers(page))
    assert page.locator("p.user").all_text_contents() == ["A file is", "<b>bold</b>"]
    assert page.locator("#turns b").count() == 0
    page.get_by_role("button", name="New").click()
    assert answers(page) == []


def test_what_the_server_refuses_is_shown(page: Any) -> None:
    page.get_by_label("Message").fill("x" * 100_000)
    page.get_by_role("button", name="Send").click()
    page.get_by_text("the model's context is 1,024 tokens").wait_for()


def test_an_answer_is_stopped(page: Any, server: Served) -> None:
    page.route("**/v1/chat/completions", lambda route: route.continue_(post_data=ENDLESS))
    before = server.said.read_text().count("the client left")
    page.get_by_label("Message").fill("a")
    page.get_by_label("Message").press("Enter")
    page.get_by_role("button", name="Stop").click()
    page.locator("p.error").wait_for()
    assert page.locator("p.error").text_content() == "stopped"
    while server.said.read_text().count("the client left") == before:
        assert server.process.poll() is None
