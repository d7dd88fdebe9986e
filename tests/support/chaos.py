"""A sweep under random kills, compared with an undisturbed one: each run must land once, with the same bits.

    PYTHONPATH=tests python tests/support/chaos.py --seed 7 --blows 24

Drivers are killed or told to stop at any moment. Actors are killed or frozen, some of them for longer than `--timeout`.
Each of these is done in turn, and the same command is repeated until it finishes. The seed determines the faults and
the times between them; what the sweep is doing at that time depends on the machine too.
"""

import argparse
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from driving import assert_same_results
from ray_fixtures import short_folder
from sweeping import SCRIPT, below, environment_with, flags_in, processes_of

N_PROMPTS = 24
N_RUNS = N_PROMPTS * 9
TIMEOUT_SECONDS = 60.0  # an actor has to have loaded by then, on a busy machine too
STARTS_TO_END = 4  # an actor that was frozen too long may have left errors, to be tried again
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
BLOWS = ("kill driver", "stop driver", "kill actor", "kill actor", "freeze actor")


class Chaos:
    """A sweep that is restarted whenever it ends, and the faults that strike it."""

    def __init__(self, folder: Path, seed: int, tokens: int, seconds: float) -> None:
        """Prepare a sweep with `tokens` per run, and at most `seconds` between blows."""
        self._folder, self._seconds, self._random = folder, seconds, random.Random(seed)
        self._began = time.monotonic()
        self.starts = self._n_struck = 0  # started drivers, and blows
        self._out, self._stopped = folder / "undisturbed", False
        self._frozen: list[tuple[float, psutil.Process]] = []  # when each goes on
        (folder / "ray").mkdir()
        self._command: list[Any] = [
            *(sys.executable, SCRIPT, *flags_in(folder, N_PROMPTS), "--device", "cpu", "--max-new-tokens", str(tokens)),
            *("--rows-per-shard", "9", "--actors", "2", "--cpus-per-actor", "0.5", "--timeout", str(TIMEOUT_SECONDS)),
        ]
        assert self._driver().wait() == 0, self._said()

    def disturbed(self, n_blows: int) -> None:
        """Run sweeps to their ends, one after the other, until `n_blows` blows have struck."""
        while n_blows:
            self._out = self._folder / f"disturbed-{n_blows}"
            n_blows = self._to_the_end(n_blows)
            while any(processes_of(str(self._folder / "ray"))):
                time.sleep(0.1)
            assert_same_results(self._folder / "undisturbed", self._out, check_exact=True)
            assert len(pd.read_parquet(self._out / "generations")) == N_RUNS
            assert all(re.fullmatch(r"[^.]+\.parquet", path.name) for path in self._out.glob("[gt]*/*"))
            assert not (self._out / "lease.json").exists()

    def _to_the_end(self, n_blows: int) -> int:
        """Run one sweep to its end, and return the number of remaining blows."""
        whole, ends = False, 0
        while not whole:
            self.starts, self._stopped = self.starts + 1, False
            driver = self._driver()
            while self._pause(driver):
                if n_blows:
                    n_blows -= self._strike(driver)
            self._judge(driver.returncode)
            if driver.returncode == 0:
                ends += 1
                assert ends <= STARTS_TO_END, self._said()
                whole = bool((pd.read_parquet(self._out / "generations").status == "ok").all())
        self._thaw(all_of_them=True)
        return n_blows

    def _driver(self) -> subprocess.Popen[bytes]:
        with (self._folder / "said").open("wb") as said:
            environment = environment_with(self._folder / "ray")
            return subprocess.Popen([*self._command, "--out", self._out], env=environment, stdout=said, stderr=said)

    def _pause(self, driver: subprocess.Popen[bytes]) -> bool:
        """Wait for the next blow, and return True if the driver still runs."""
        end = time.monotonic() + self._random.uniform(0, self._seconds)
        while time.monotonic() < end and driver.poll() is None:
            time.sleep(0.05)
            self._thaw()
        return driver.poll() is None

    def _strike(self, driver: subprocess.Popen[bytes]) -> bool:
        """Strike, and return True if there was anything to strike."""
        blow, by = BLOWS[self._n_struck % len(BLOWS)], self._random.choice(SIGNALS)
        for_seconds = self._random.uniform(0, 2 * TIMEOUT_SECONDS)
        actors = below(driver, "ray::SweepActor")
        victim = self._random.choice(actors) if actors else None
        with suppress(psutil.NoSuchProcess):
            if blow == "kill driver":
                driver.kill()
            elif blow == "stop driver":
                driver.send_signal(by)
            elif victim is None:
                return False
            elif blow == "kill actor":
                victim.kill()
            else:
                victim.suspend()
                self._frozen.append((time.monotonic() + for_seconds, victim))
        what = {"stop driver": by.name, "freeze actor": f"for {for_seconds:.0f} s"}.get(blow, "")
        n_committed = len(list(self._out.glob("generations/*.parquet")))
        print(f"{time.monotonic() - self._began:6.1f} s  {n_committed:3} shards  {blow} {what}", flush=True)
        if blow in ("kill driver", "stop driver"):
            self._stopped = True
            driver.wait()
        self._n_struck += 1
        return True

    def _thaw(self, all_of_them: bool = False) -> None:
        for until, process in list(self._frozen):
            if all_of_them or time.monotonic() > until:
                self._frozen.remove((until, process))
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def _judge(self, code: int) -> None:
        """Assert that the driver ended because a signal ended it, or because the sweep was finished."""
        by_signal = [-number for number in (signal.SIGKILL, *SIGNALS)]  # at its start Python's default handlers apply
        assert code in ((0, 1, *by_signal) if self._stopped else (0,)), f"{code}: {self._said()}"
        assert "Traceback" not in self._said() or code < 0 or "KeyboardInterrupt" in self._said(), self._said()

    def _said(self) -> str:
        return (self._folder / "said").read_text()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blows", type=int, default=24, help="kills, signals and freezes in all")
    parser.add_argument("--tokens", type=int, default=200, help="of each run")
    parser.add_argument("--seconds", type=float, default=25.0, help="between blows at most")
    flags = parser.parse_args(arguments)
    with short_folder() as temporary:
        chaos = Chaos(Path(temporary), flags.seed, flags.tokens, flags.seconds)
        chaos.disturbed(flags.blows)
    print(f"{flags.blows} blows, {chaos.starts} drivers: each run once, bit for bit as undisturbed")


if __name__ == "__main__":
    main()
