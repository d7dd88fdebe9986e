"""Thinking and answer of a text, by marks or by a pattern; grading reads only the answer."""

from eexit.plan.sweep_config import Prompt
from eexit.quality.grading import Grade, grade
from eexit.quality.thinking import AnswerPattern, ThinkingTags

SUM = Prompt("0", "What is 3 + 4?", answer="7")
TAGS: ThinkingTags | AnswerPattern = ThinkingTags("<t>", "</t>")
PATTERN: ThinkingTags | AnswerPattern = AnswerPattern("(?i)answer:")


def test_marks_open_and_close_and_a_pattern_begins_the_answer() -> None:
    for way, before, text, thinking, closed, answer in (
        (TAGS, "", "<t>3 + 4 is 8</t>It is 7.", "<t>3 + 4 is 8</t>", True, "It is 7."),
        (TAGS, "", "Well. <t>8?</t> 7 <t>9?</t>!", "<t>8?</t><t>9?</t>", True, "Well.  7 !"),
        (TAGS, "assistant:<t>", "8?</t>7", "8?</t>", True, "7"),  # the template opens the chain
        (TAGS, "<t>8?</t>", "7", "", True, "7"),  # a prefiller has it already
        (TAGS, "<t>8, or", " 9?</t>7", " 9?</t>", True, "7"),
        (TAGS, "", "8?</t>7</t>", "8?</t>", True, "7</t>"),  # a chain that closes first was opened before the text
        (TAGS, "", "7. <t>Or 8?", "<t>Or 8?", False, None),
        (TAGS, "<t>", "", "", False, None),
        (TAGS, "", "It is 7.", "", None, "It is 7."),
        (PATTERN, "", "3 + 4 is 8, no. ANSWER: 7", "3 + 4 is 8, no. ", True, "ANSWER: 7"),
        (PATTERN, "3 + 4 is 8. Answer:", " 7", "", True, " 7"),
        (PATTERN, "3 + 4. Ans", "wer: 7", "", True, "wer: 7"),
        (PATTERN, "", "3 + 4 is 8", "3 + 4 is 8", False, None),
    ):
        chains = way.chains(before, text)
        parts = chains.parts(text)  # a token for each character
        assert "".join(letter for letter, part in zip(text, parts, strict=True) if part == "thinking") == thinking
        assert (chains.closed, chains.answer(text)) == (closed, answer)


def test_a_token_is_of_the_part_of_its_first_character_and_grading_reads_the_answer_alone() -> None:
    chains = TAGS.chains("", "So<t>8</t>7")
    assert chains.parts(["So<", "t>", "", "8</", "t>7", ""]) == ["answer", *["thinking"] * 4, "answer"]
    unclosed = TAGS.chains("", "<t>8").parts(["<t>", "8", ""])
    assert unclosed == ["thinking"] * 3, "with the token that ends the text"
    text = "<t>The answer is 7.</t>The answer is 8."
    assert grade(SUM, TAGS.chains("", text).answer(text)) == Grade("8", False)
    assert grade(SUM, "") == grade(SUM, None) == Grade(None, False)
    assert grade(Prompt("1", "", answer_pattern=".*"), None).correct is False, "though it matches nothing, too"
    assert grade(Prompt("2", "Why?"), None).correct is None
