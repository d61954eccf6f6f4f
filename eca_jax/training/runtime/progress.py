"""What a run says while it goes: a bar with the time left on a terminal, plain lines elsewhere."""

import sys
import time

import tqdm


def clock(seconds: float) -> str:
    """75.2 -> "1:15", 3675 -> "1:01:15"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Reports on standard output; silent on all processes but the primary."""

    def __init__(self, primary: bool = True):
        self._primary = primary
        self._bar: tqdm.tqdm | None = None
        self._first = self._total = 0
        self._started = time.monotonic()

    def start(self, step: int, total: int) -> None:
        """Begins counting from `step` to `total`; the time left is estimated from here."""
        self._first, self._total, self._started = step, total, time.monotonic()
        if self._primary and sys.stdout.isatty():
            self._bar = tqdm.tqdm(
                total=total, initial=step, unit="step", file=sys.stdout, dynamic_ncols=True, smoothing=0.05
            )

    def update(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if not self._primary:
            return
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def time_left(self, step: int) -> str:
        """The time left after `step`, at the pace since `start` (evaluations and checkpoints included)."""
        done = max(step - self._first, 1)
        return clock((time.monotonic() - self._started) / done * (self._total - step))

    def elapsed(self) -> str:
        return clock(time.monotonic() - self._started)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
