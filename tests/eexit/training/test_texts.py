"""Which texts are learned from: the split by prompt, the sweep's normal runs, and blocks of texts."""

from eexit.training.texts import TrainingText, blocks, chooses, distinct, is_held_out, n_tokens


def test_one_prompt_in_five_is_held_out_and_one_in_five_of_the_others_chooses() -> None:
    prompts = [f"prompt {number}" for number in range(2000)]
    held_out, choosing = ({prompt for prompt in prompts if is_of(prompt)} for is_of in (is_held_out, chooses))
    assert abs(len(held_out) - 400) < 60  # more than three standard errors
    assert abs(len(choosing) - 320) < 55
    assert not held_out & choosing


def test_blocks_hold_whole_texts_in_order_and_equal_texts_are_learned_from_once() -> None:
    texts = [TrainingText(str(at), (1,), (7,) * length) for at, length in enumerate((3, 4, 9, 1, 1, 1))]
    cut = blocks(texts, 7)
    assert [[len(text.token_ids) for text in block] for block in cut] == [[3, 4], [9], [1, 1, 1]]
    assert (n_tokens(texts), blocks([], 7), distinct(texts)) == (19, [], texts[:4])
