"""Starts one child of the mesh: drops root, dies with its parent, then becomes the program; standard library alone.

Run by path, `python -I -S launch.py USER SIGNAL PROGRAM ARGUMENT…`, so that it costs 20 ms. USER is "-" to stay as is.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replaces itself by the program."""
    user, death_signal, *program = sys.argv[1:]
    parent = os.getppid()
    if user != "-":
        account = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    # After the change of user, which clears it: the kernel then ends this child when its supervisor is killed.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.Signals[death_signal]), 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the supervisor is gone already")
    os.execvp(program[0], program)  # noqa: S606 - the program is the supervisor's own choice


if __name__ == "__main__":
    main()
