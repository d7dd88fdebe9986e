from eexit.method.stick_breaking import uniform_draws


def test_draws_depend_on_purpose_seed_and_prompt_and_extend() -> None:
    ten = uniform_draws("exit", 1, [3, 4], 10)
    assert uniform_draws("exit", 1, [3, 4], 4).tolist() == ten[:4].tolist()
    for others in (("exit", 2, [3, 4]), ("exit", 1, [3, 5]), ("sample", 1, [3, 4]), ("prompt", 1, [3, 4])):
        assert not {*ten} & {*uniform_draws(*others, 10)}  # type: ignore[arg-type]
    assert (uniform_draws("exit", 0, [1], 100_000) < 1).all()
