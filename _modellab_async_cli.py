"""The command `modellab`, from its first moment: outside the package, whose import takes a while.

Ctrl-C while Python imports all that the command needs ends it as it does later, with 130 and
without a stack trace.
"""

from __future__ import annotations

import os
import signal


def quit_on_ctrl_c() -> None:
    """Let Ctrl-C end the process at once, unless whoever started it has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))


def main() -> None:
    """Run the command line."""
    quit_on_ctrl_c()
    from modellab_async.__main__ import main  # noqa: PLC0415 - see above

    main()
