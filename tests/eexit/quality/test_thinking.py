"""Thinking and answer of a text, by marks or by a pattern; grading reads only the answer."""

from eexit.plan.sweep_config import Prompt
from eexit.quality.grading import Grade, grade
from eexit.quality.thinking import AnswerPattern, ThinkingTags

SUM = Prompt("0", "What is 3 + 4?", answer="7")


def test_marks_open_and_close_and_a_pattern_begins_the_answer() -> None:
    tags = ThinkingTags("<t>", "</t>")
    for before, text, thinking, closed, answer in (
        ("", "<t>3 + 4 is 8</t>It is 7.", "<t>3 + 4 is 8</t>", True, "It is 7."),
        ("", "Well. <t>8?</t> 7 <t>9?</t>!", "<t>8?</t><t>9?</t>", True, "Well.  7 !"),
        ("assistant:<t>", "8?</t>7", "8?</t>", True, "7"),  # the template opens the chain
        ("<t>8?</t>", "7", "", True, "7"),  # a prefiller has it already
        ("<t>8, or", " 9?</t>7", " 9?</t>", True, "7"),
        ("", "8?</t>7</t>", "8?</t>", True, "7</t>"),  # a chain that closes first was opened before the text
        ("", "7. <t>Or 8?", "<t>Or 8?", False, None),
        ("<t>", "", "", False, None),
        ("", "It is 7.", "", None, "It is 7."),
    ):
        chains = tags.chains(before, text)
        parts = chains.parts(text)  # a token for each character
        assert "".join(letter for letter, part in zip(text, parts, strict=True) if part == "thinking") == thinking
        assert (chains.closed, chains.answer(text)) == (closed, answer)
    for before, text, answer in (
        ("", "3 + 4 is 8, no. ANSWER: 7", "ANSWER: 7"),
        ("3 + 4 is 8. Answer:", " 7", " 7"),
        ("3 + 4. Ans", "wer: 7", "wer: 7"),
        ("", "3 + 4 is 8", None),
    ):
        chains = AnswerPattern("(?i)answer:").chains(before, text)
        assert (chains.closed, chains.answer(text)) == (answer is not None, answer)


def test_a_token_is_of_the_part_of_its_first_character_and_grading_reads_the_answer_alone() -> None:
    chains = ThinkingTags("<t>", "</t>").chains("", "So<t>8</t>7")
    assert chains.parts(["So<", "t>", "", "8</", "t>7", ""]) == ["answer", *["thinking"] * 4, "answer"]
    unclosed = ThinkingTags("<t>", "</t>").chains("", "<t>8")
    assert unclosed.parts(["<t>", "8", ""]) == ["thinking"] * 3, "with the token that ends the text"
    text = "<t>The answer is 7.</t>The answer is 8."
    assert grade(SUM, ThinkingTags("<t>", "</t>").chains("", text).answer(text)) == Grade("8", False)
    assert grade(SUM, "") == grade(SUM, None) == Grade(None, False)
    assert grade(Prompt("1", "", answer_pattern=".*"), None).correct is False, "though it matches nothing, too"
    assert grade(Prompt("2", "Why?"), None).correct is None
