"""Runs a command, to which the kernel refuses IPv6 sockets (seccomp(2))."""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

SYSTEM_CALL, FIRST_ARGUMENT = 0, 16  # Where they stand in struct seccomp_data.
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

socket_call = {"x86_64": 41, "aarch64": 198}[platform.machine()]
steps = [
    (LOAD, 0, 0, SYSTEM_CALL),
    (JUMP_IF_EQUAL, 0, 3, socket_call),
    (LOAD, 0, 0, FIRST_ARGUMENT),
    (JUMP_IF_EQUAL, 0, 1, socket.AF_INET6),
    (RETURN, 0, 0, REFUSE | errno.EAFNOSUPPORT),
    (RETURN, 0, 0, ALLOW),
]


class Filter(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


packed = b"".join(struct.pack("HBBI", *step) for step in steps)
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Filter(len(steps), packed)), 0, 0):
    sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[1], sys.argv[1:])
