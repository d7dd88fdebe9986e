"""Addresses restore the page's state, or state what is missing; and the side files of a large page."""

import re
import shutil
from itertools import product
from pathlib import Path

from report_fixtures import MakeSweep, Visit, Walk, all_drawn
from synthetic_sweeps import CONFIGURATIONS, NORMAL_ALONE, run_rows, write_runs


def test_failures_have_a_page_and_texts_that_the_page_lacks_are_said_to_be_elsewhere(walk: Walk, some: Path) -> None:
    page = walk("#/")
    page.locator("main").get_by_role("link", name="1 failed: CUDA out of memory").click()
    page.get_by_role("heading", name="Failed runs").wait_for()
    page.locator("main table").get_by_role("link").click()
    assert "CUDA out of memory" in page.locator(".error").inner_text()
    for route in ("#/p/0", "#/"):
        assert "texts and tokens of 2 of 6 prompts" in walk(route, path=some).locator("main").text_content()


def test_an_address_leads_to_every_rule_and_control_or_says_that_it_leads_nowhere(walk: Walk, answered: Path) -> None:
    followed, control = "unfrozen/kl/2", "unfrozen/random/kl/2"
    page = walk(f"#/p/0/{followed}/vs/{control}/t/3", path=answered)
    assert page.locator(".texts h2").all_inner_texts() == [followed, control]
    for route in (f"#/c/{control}", "#/c/unfrozen%2Frandom%2Fkl%2F2"):
        walk(route, path=answered).get_by_role("heading", name=f"{control} on every prompt").wait_for()
    for route, sentence in {
        "#/p/99": "no prompt 99.",
        "#/p/0/unfrozen/kl/9": "no run unfrozen/kl/9 on prompt 0.",
        "#/p/0/unfrozen/kl/1/s/7": "no run unfrozen/kl/1, seed 7, on prompt 0.",
        "#/c/other": "no configuration other.",
        "#/nowhere": "No page has this address.",
        "#/p/0/unfrozen/kl/1/vs/unfrozen/kl/9": "no unfrozen/kl/9 to compare with",
        "#/p/0/unfrozen/kl/1/t/900": "no token 901: the text has 24.",
        "#/p/0/unfrozen/kl/1/vs/normal/o/900": "no token 901: the text has 24.",
    }.items():
        assert sentence in walk(route).locator("main").inner_text(), route


def test_partial_sweeps_say_so(visit: Visit, make_sweep: MakeSweep) -> None:
    for sentence, how in (
        ("No run is committed yet", {"n_prompts": 0, "configurations": [], "n_runs": 21}),
        ("14 runs aren't committed yet", {"n_prompts": 1, "n_runs": 21}),
        ("Every run failed", {"n_prompts": 2, "fail": lambda *run: True}),
        ("too few for intervals", {"n_prompts": 1}),
        ("no normal runs", {"configurations": [("unfrozen", 1.0)]}),
        ("nothing exits early", {"configurations": NORMAL_ALONE}),
        ("no normal runs", {"configurations": CONFIGURATIONS[1:]}),
    ):
        said = all_drawn(visit("#/?open=all", path=make_sweep(**how))).locator("main").inner_text()
        assert sentence in said, how
        assert "nan" not in said.lower(), how


def seeded(folder: Path, prompt_id: str, temperature: float) -> Path:
    """Write one prompt with two seeds: runs of `normal` are the same for both."""
    runs = [
        run_rows(prompt_id, "?", mode, k, ["one", " two", f" {mode} {seed if k else ''}"], seed)
        for seed, (mode, k) in product((3, 4), (("normal", None), ("unfrozen", 1.0)))
    ]
    return write_runs(folder / "s", runs, temperature)


def test_seeds_and_odd_ids_have_addresses(visit: Visit, tmp_path: Path) -> None:
    page = visit("#/?open=all", path=seeded(tmp_path, "a/b c%?#", 1.0))
    page.get_by_role("link", name="a/b c%?# ?").first.click()
    page.locator(".said-by").get_by_role("link", name="U·kl 1, seed 4", exact=True).click()
    page.get_by_role("heading", name="unfrozen/kl/1, seed 4 on prompt a/b c%?#").wait_for()
    page.get_by_label("Side by side with").select_option(label="normal, seed 4")
    page.locator(".tokens").nth(1).wait_for()
    assert "unfrozen 4" in page.locator(".tokens").first.inner_text()


def test_a_run_that_is_the_same_for_every_seed_is_shown_once(walk: Walk, tmp_path: Path) -> None:
    path = seeded(tmp_path, "0", 0.0)
    page = walk("#/p/0?prompt.numbers=true", path=path)
    links = page.locator("main table").first.get_by_role("link").all_inner_texts()
    assert links == ["normal, every seed", "unfrozen/kl/1, seed 3", "unfrozen/kl/1, seed 4"]
    page.get_by_role("link", name="unfrozen/kl/1, seed 4").first.click()
    page.get_by_text("Identical to normal, every seed for the first 2 tokens").wait_for()
    page.get_by_label("Side by side with").select_option(label="normal, every seed")
    page.locator(".tokens").nth(1).wait_for()
    assert page.evaluate("location.hash") == "#/p/0/unfrozen/kl/1/s/4/vs/normal"
    for route, said in (("#/s/normal", "1 place in 1 of 3 generated texts"), ("#/?open=all", "4 runs (3 different)")):
        assert said in walk(route, path=path).locator("main").inner_text()
    page = walk("#/p/0/normal/s/4/vs/unfrozen/kl/1~4", path=path)  # an address from before seeds were shown as one
    page.get_by_role("heading", name="normal, every seed on prompt 0").wait_for()
    assert "unfrozen 4" in page.locator(".tokens").nth(1).inner_text()


def test_a_missing_side_file_is_named(visit: Visit, wrong: list[str], beside: Path, tmp_path: Path) -> None:
    shutil.copytree(beside.parent, tmp_path, dirs_exist_ok=True)
    path = tmp_path / beside.name
    page = visit("#/p/0/unfrozen/kl/1/vs/normal/t/2", path=path)
    assert page.locator(".t").count() == 48
    said = page.locator(".pane").inner_text()
    assert re.search(r"token 3 of 24 \(position 2\), read after layer 15\..*At each layer", said, re.DOTALL)
    page.goto(path.as_uri() + "#/s/cat")
    page.locator(".hits li").nth(6).wait_for()
    (tmp_path / "r.data" / "prompt-0.js").unlink()
    page = visit("#/p/0/normal", path=path)
    assert "r.data/prompt-0.js, which isn't next to this file" in page.locator("main").inner_text()
    assert all("ERR_FILE_NOT_FOUND" in line for line in wrong)
    wrong.clear()
