"""The harness's own command, with `eexit` among its models."""

import sys

from lm_eval.__main__ import cli_evaluate

from eexit.errors import UsageError
from eexit.output.locations import without_secrets


def main() -> int:
    """Run the command; return 2, after printing one line, if the model can't be used with these arguments."""
    try:
        cli_evaluate()
    except UsageError as error:
        print(without_secrets(f"error: {error}"), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
