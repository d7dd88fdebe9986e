"""One progress over several steps."""

from cluster.console.steps import Steps
from eexit.output.progress import Progress, Silence


class Shown(Silence):
    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []

    def show(self, progress: Progress, last: bool = False) -> None:
        self.seen.append((progress.doing, round(progress.share, 3)))


def test_it_says_which_step_of_how_many_and_how_much_of_all_is_done() -> None:
    shown = Shown()
    steps = Steps(shown, {"look": 0.2, "learn": 0.3, "run": 0.5})
    steps.begin("look")
    steps.work(1.0)
    steps.show(Progress("round 1", 10, 0.5), last=True)
    steps.begin("learn")
    steps.work(0.5)
    steps.show(Progress("texts", 10, 1.0))
    steps.work(0.5)
    steps.show(Progress("training", 10, 0.5))
    assert shown.seen == [("1/3 look: round 1", 0.1), ("2/3 learn: texts", 0.35), ("2/3 learn: training", 0.425)]


def test_steps_that_were_done_before_are_no_part_of_the_time_left() -> None:
    shown = Shown()
    steps = Steps(shown, {"look": 0.2, "learn": 0.3, "run": 0.5}, finished=["look", "learn"])
    steps.begin("run")
    steps.work(1.0)
    steps.show(Progress("runs", 10, 0.5))
    assert shown.seen == [("3/3 run: runs", 0.5)]


def test_a_step_that_is_done_again_counts_again_and_it_is_known_how_far_it_came() -> None:
    shown = Shown()
    steps = Steps(shown, {"look": 0.2, "learn": 0.3, "run": 0.5}, finished=["look", "learn", "run"])
    steps.begin("run")
    steps.work(0.4)
    steps.show(Progress("runs", 10, 0.5))
    assert (shown.seen, steps.share_of_step) == ([("3/3 run: runs", 0.2)], 0.2)
    steps.work(0.6)
    assert steps.share_of_step == 0.4
    steps.begin("run")
    assert steps.share_of_step == 0.0
