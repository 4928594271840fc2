"""Starts one child of the mesh: drops root, dies with its parent, then becomes the program; standard library alone.

Run by path, `python -I -S launch.py SUPERVISOR WATCH USER SIGNAL PROGRAM ARGUMENT…`, so that it costs 20 ms.
SUPERVISOR is its process id. WATCH is "kernel" where the kernel tells a child of its parent's death (Linux), "pipe"
where the standard input is a pipe that ends with the supervisor, "none" for what ends soon by itself. USER is "-" to
stay as is.
"""

import contextlib
import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replaces itself by the program."""
    supervisor, watch, user, death_signal, *program = sys.argv[1:]
    if user != "-":
        account = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    # Both after the change of user: it would clear the kernel's promise, and the watcher may only signal its like.
    if watch == "kernel":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.Signals[death_signal]), 0, 0, 0)
    elif watch == "pipe":
        _watch_pipe(signal.Signals[death_signal])
    if os.getppid() != int(supervisor):
        sys.exit("the supervisor is gone already")
    os.execvp(program[0], program)  # noqa: S606 - the program is the supervisor's own choice


def _watch_pipe(death_signal: signal.Signals) -> None:
    """Leaves a process behind that signals this one when the standard input ends; then the program has none."""
    program = os.getpid()
    first = os.fork()
    if first == 0:
        # Forked twice: it becomes init's, and the program never meets a child that it did not start.
        if os.fork() == 0:
            os.setsid()
            # It must not hold the program's log open.
            null = os.open(os.devnull, os.O_RDWR)
            for output in (1, 2):
                os.dup2(null, output)
            while os.read(0, 1):
                pass
            with contextlib.suppress(ProcessLookupError):
                os.kill(program, death_signal)
        os._exit(0)
    os.waitpid(first, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


if __name__ == "__main__":
    main()
