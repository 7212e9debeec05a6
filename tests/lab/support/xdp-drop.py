#!/usr/bin/env python3
"""Drops every packet that a device receives, by a program of generic XDP, until this process ends: DEVICE.

Says `attached` when it does. By bpf(2) itself, for want of a compiler in the lab; numbers are those of include/uapi/linux/bpf.h.
"""

import ctypes
import os
import signal
import socket
import struct
import sys

BPF_SYSCALL = 321  # x86-64
PROG_LOAD, LINK_CREATE = 5, 28
PROG_TYPE_XDP, ATTACH_XDP, XDP_FLAGS_SKB_MODE = 6, 37, 2
# r0 = XDP_DROP; exit
PROGRAM = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    fd = libc.syscall(BPF_SYSCALL, command, buffer, 128)
    if fd < 0:
        sys.exit(f"bpf({command}): {os.strerror(ctypes.get_errno())}")
    return fd


program, licence = ctypes.create_string_buffer(PROGRAM), ctypes.create_string_buffer(b"GPL")
load = struct.pack("<IIQQ", PROG_TYPE_XDP, 2, ctypes.addressof(program), ctypes.addressof(licence))
fd = bpf(PROG_LOAD, load)
bpf(LINK_CREATE, struct.pack("<IIII", fd, socket.if_nametoindex(sys.argv[1]), ATTACH_XDP, XDP_FLAGS_SKB_MODE))
print("attached", flush=True)
signal.pause()
