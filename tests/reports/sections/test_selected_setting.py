"""Which setting may be used: a table from the strictest bound on, and what a certificate says."""

import shutil
from pathlib import Path

from chart_fields import quality_in
from synthetic_sweeps import CHOSEN, choose

from reports.sections.selected_setting import settings_section
from reports.sections.verdict import verdict


def test_which_setting_is_a_table_from_the_strictest_bound_on(one_mode: Path, tmp_path: Path) -> None:
    section = settings_section(quality_in(one_mode))
    assert section
    assert section["about"].startswith("Nothing is certified")
    assert [row["kept"] for row in section["table"]["rows"]] == ["not shown"] * 2
    assert [column["key"] for column in section["table"]["columns"]][3:] == ["run", "layers_skipped"]
    folder = shutil.copytree(one_mode, tmp_path / "s")
    choose(folder)
    choose(folder, 2, None, max_risk=0.01)
    choose(folder, 3, max_risk=0.2, runs="of fewer prompts")
    section, said = settings_section(quality_in(folder)), verdict(None, quality_in(folder))
    assert section
    assert said
    none, one, before = section["table"]["rows"]
    assert (none["promise"], none["configuration"]) == ("disagreement ≤ 1%, with 95%", None)
    assert (one["promise"], one["configuration"]) == ("disagreement ≤ 5%, with 95%", CHOSEN)
    assert before["promise"] == "disagreement ≤ 20%, with 95%, before the sweep grew"
    assert one["held_out"] == "3%, at most 8% (n = 50)"
    assert said.sentences[3].startswith(f"Certified: {CHOSEN}, at 92% of full depth.")


def test_a_certificate_of_groups_of_unequal_size_says_so_and_both_losses(one_mode: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(one_mode, tmp_path / "s")
    choose(folder, of_prompts=0.054)
    section, said = settings_section(quality_in(folder)), verdict(None, quality_in(folder))
    assert section
    assert said
    assert [row["loss_of_prompts"] for row in section["table"]["rows"]] == [0.054]
    assert "Of single prompts of groups" in [column["label"] for column in section["table"]["columns"]]
    assert "averaged over groups of prompts that count once each, is at most 5%" in said.sentences[3]
    assert said.sentences[3].endswith("over their 813 prompts the mean is 5.4%, for which nothing is certified.")
