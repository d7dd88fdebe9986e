"""Scroll position, choices and theme survive a step back and a reload."""

import pytest
from report_fixtures import Page, Visit

DESK = (("width", 1000), ("height", 500))


def drawn(page: Page) -> None:
    for chart in page.locator(".chart").all():
        chart.and_(page.locator("[data-ink]")).wait_for()


def test_back_leads_to_where_the_reader_was(visit: Visit) -> None:
    page = visit("#/?open=all", viewport=DESK)
    drawn(page)
    page.locator("[data-chart=heat]").get_by_label("Metric").select_option("Perplexity")
    page.locator("[data-chart=heat]").get_by_label("Order by").select_option("unfrozen/kl/2")
    beside = page.locator("[data-chart=beside]")
    beside.get_by_role("combobox", name="Compare").select_option("one with all others")
    beside.get_by_role("combobox", name="Base").select_option("unfrozen/kl/1")
    beside.get_by_role("combobox", name="Measure").select_option("Tokens")
    page.evaluate("scrollTo(0, 1500)")
    page.wait_for_timeout(100)
    page.evaluate("location.hash = '#/p/0'")
    page.get_by_role("heading", name="Prompt 0").wait_for()
    assert page.evaluate("scrollY") == 0
    drawn(page)
    page.evaluate("scrollTo(0, 200)")
    page.wait_for_timeout(100)
    page.go_back()
    page.get_by_role("heading", name="Does early exit pay here?").wait_for()
    drawn(page)
    assert page.evaluate("scrollY") == 1500
    chosen = page.locator("[data-chart=beside] option:checked, [data-chart=heat] option:checked").all_inner_texts()
    assert chosen == ["one with all others", "unfrozen/kl/1", "Tokens", "Perplexity", "unfrozen/kl/2"]
    page.go_forward()
    page.get_by_role("heading", name="Prompt 0").wait_for()
    drawn(page)
    assert page.evaluate("scrollY") == 200


def test_a_reload_leads_to_where_the_reader_was(visit: Visit) -> None:
    page = visit("#/?open=all", viewport=DESK)
    drawn(page)
    page.locator("[data-chart=heat]").get_by_label("Metric").select_option("Perplexity")
    page.evaluate("scrollTo(0, 1500)")
    page.wait_for_timeout(100)
    page.reload()
    page.locator("body[data-ready]").wait_for()
    drawn(page)
    page.wait_for_timeout(100)
    assert page.evaluate("scrollY") == 1500
    assert page.locator("[data-chart=heat] option:checked").first.inner_text() == "Perplexity"


def test_back_to_a_pinned_token_is_not_a_jump_to_it(visit: Visit) -> None:
    page = visit("#/p/1/normal/t/4", viewport=DESK)  # a text of 10,000 letters
    page.evaluate("scrollTo(0, 3000)")
    page.wait_for_timeout(100)
    page.evaluate("location.hash = '#/fail'")
    page.get_by_role("heading", name="Failed runs").wait_for()
    page.go_back()
    page.get_by_role("heading", name="normal on prompt 1").wait_for()
    assert page.evaluate("scrollY") == 3000


@pytest.mark.parametrize(("scheme", "other"), [("light", "dark"), ("dark", "light")])
def test_dark_or_light_lasts(visit: Visit, scheme: str, other: str) -> None:
    page = visit("#/methods", color_scheme=scheme, locale="en-GB")  # no other test's browser has this
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    page.get_by_role("button", name="Dark").click()
    page.evaluate("dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('afterprint'))")
    page.reload()
    page.locator("body[data-ready]").wait_for()
    assert page.evaluate("document.documentElement.dataset.theme") == other
    assert page.get_by_role("button", name="Dark").get_attribute("aria-pressed") == str(other == "dark").lower()


def test_how_texts_are_shown_lasts(visit: Visit) -> None:
    page = visit("#/p/0/unfrozen/kl/1")
    page.get_by_role("button", name="Layer numbers").click()
    page.reload()
    page.locator("body[data-ready].numbers").wait_for()
    assert page.get_by_role("button", name="Layer numbers").get_attribute("aria-pressed") == "true"
