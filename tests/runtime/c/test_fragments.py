"""The device's side of a gateway in C: the same bytes as in Python, and devices whose payloads get to a live edge."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from autosplit.runtime.export import export_result
from autosplit.runtime.standalone.bundle.parts import load_device, load_edge
from autosplit.runtime.standalone.gateway.fragments import (
    ANSWER_BYTES,
    ANSWERED,
    AWAY,
    FRAGMENT_BYTES,
    PacketAnswer,
    cobs_encode,
    cut,
)
from autosplit.runtime.standalone.gateway.gateway import Deployment, Gateway
from autosplit.runtime.standalone.gateway.links import SerialLink
from autosplit.runtime.standalone.protocol.wire import short_key
from tests.runtime.c.emulated import BOARD, MISSING, STRICT
from tests.runtime.standalone.fakes import serving
from tests.runtime.standalone.gateway.parts import DEPLOYMENT, CodeEdge, Line, options, payloads, running

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "autosplit" / "runtime" / "c" / "sources"
HERE = Path(__file__).parent / "line"
NUMBER = DEPLOYMENT.number
KEY = short_key(DEPLOYMENT.key)
CORTEX_M4 = ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")

COMPILERS = [name for name in ("cc", "gcc", "clang") if shutil.which(name)]
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="needs a C compiler: apt-get install gcc")
needs_board = pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}: apt-get install "
                                                       "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm")


def compiled(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


class _Gateway(ctypes.Structure):
    _fields_ = (("key", ctypes.c_uint8 * 4), ("device", ctypes.c_uint16), ("packet_bytes", ctypes.c_uint16))


class _Answer(ctypes.Structure):
    _fields_ = (("status", ctypes.c_uint8), ("label", ctypes.c_uint16))


class _Line(ctypes.Structure):
    _fields_ = (("held", ctypes.c_uint8 * (ANSWER_BYTES + 1)), ("length", ctypes.c_uint8))


class Device:
    """The functions of fragments.c, for one device."""

    def __init__(self, library, device=1, packet_bytes=20, key=KEY):
        self._c = library
        self._gateway = ctypes.byref(_Gateway((ctypes.c_uint8 * 4)(*key), device, packet_bytes))
        self._packet_bytes, self._line, self._answer = packet_bytes, _Line(), _Answer()

    def packets(self, payload, message):
        count = self._c.autosplit_fragments(self._gateway, len(payload))
        return [self.packet(payload, message, i) for i in range(count)]

    def packet(self, payload, message, index):
        room = ctypes.create_string_buffer(b"\xee" * (self._packet_bytes + 8), self._packet_bytes + 8)
        length = self._c.autosplit_fragment(self._gateway, message, payload, len(payload), index, room)
        assert room.raw[max(length, 0):] == b"\xee" * (self._packet_bytes + 8 - length), "written behind the packet"
        return room.raw[:length]

    def answer(self, packet, message):
        """Status and label, `None` where the packet is no answer."""
        if self._c.autosplit_answer_read(self._gateway, message, packet, len(packet), ctypes.byref(self._answer)):
            return self._answer.status, self._answer.label
        return None

    def line(self, data, message):
        """Answers in bytes of a serial line."""
        found = []
        for byte in data:
            if self._c.autosplit_line_read(ctypes.byref(self._line), self._gateway, message, byte,
                                           ctypes.byref(self._answer)):
                found.append((self._answer.status, self._answer.label))
        return found


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not COMPILERS:
        pytest.skip("needs a C compiler: apt-get install gcc")
    file = tmp_path_factory.mktemp("c") / "fragments.so"
    compiled(COMPILERS[0], *STRICT, "-O2", "-shared", "-fPIC", SOURCES / "fragments.c", "-o", file)
    found = ctypes.CDLL(str(file))
    for name in ("autosplit_fragments", "autosplit_fragment", "autosplit_line_write"):
        getattr(found, name).restype = ctypes.c_size_t
    size = ctypes.c_size_t
    found.autosplit_fragments.argtypes = [ctypes.c_void_p, size]
    found.autosplit_fragment.argtypes = [ctypes.c_void_p, ctypes.c_uint8, ctypes.c_char_p, size, size, ctypes.c_char_p]
    found.autosplit_answer_read.argtypes = [ctypes.c_void_p, ctypes.c_uint8, ctypes.c_char_p, size, ctypes.c_void_p]
    found.autosplit_line_write.argtypes = [ctypes.c_char_p, size, ctypes.c_char_p]
    found.autosplit_line_read.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint8, ctypes.c_uint8,
                                          ctypes.c_void_p]
    return found


# --- the same bytes as in Python ------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
def test_compilers_have_nothing_to_say(compiler, tmp_path):
    compiled(compiler, *STRICT, "-O2", "-c", SOURCES / "fragments.c", "-o", tmp_path / "fragments.o")


def test_packets_are_those_of_python(library):
    rng = np.random.default_rng(0)
    for _ in range(400):
        packet_bytes, device = int(rng.integers(9, 300)), int(rng.integers(1 << 16))
        message, key = int(rng.integers(256)), rng.bytes(4)
        payload = rng.bytes(rng.integers(1, 128 * (packet_bytes - FRAGMENT_BYTES) + 1))
        expected = cut(payload, packet_bytes, device=device, message=message, deployment=int.from_bytes(key[:2], "big"))
        assert Device(library, device, packet_bytes, key).packets(payload, message) == expected


def test_the_known_answer(library):
    """That of docs/protocol.md."""
    device = Device(library, 0x0102, 12, short_key("known"))
    packets = device.packets(bytes.fromhex("208a40058804"), 3)
    assert [p.hex(" ") for p in packets] == ["10 01 02 03 00 20 8a 40 05 88 ca 00", "10 01 02 03 81 04 f0 8d"]
    assert device.answer(bytes.fromhex("11010203000007 7438"), 3) == (ANSWERED, 7)


def test_what_cannot_be_cut(library):
    for length, packet_bytes in ((0, 20), (128 * 13 + 1, 20), (4, 8), (4, 0)):
        assert Device(library, 1, packet_bytes).packets(bytes(length), 0) == []
    device = Device(library)
    assert len(device.packets(bytes(128 * 13), 0)) == 128
    assert device.packet(bytes(14), 0, 2) == device.packet(b"", 0, 0) == b""


def test_packets_on_a_line_are_those_of_python(library):
    rng = np.random.default_rng(1)
    some = [rng.bytes(rng.integers(1, 600)) for _ in range(200)]
    some += [rng.choice([0, 1, 255], rng.integers(1, 60)).astype(np.uint8).tobytes() for _ in range(200)]
    some += [bytes(1 + i % 255 for i in range(n)) + end for n in (253, 254, 255, 508, 509) for end in (b"", b"\0")]
    for packet in [*some, b""]:
        room = ctypes.create_string_buffer(b"\xee" * 700, 700)
        length = library.autosplit_line_write(packet, len(packet), room)
        assert room.raw[:length] == cobs_encode(packet)
        assert room.raw[length:].strip(b"\xee") == b""
        assert length <= len(packet) + len(packet) // 254 + 3


def test_answers_are_read(library):
    rng = np.random.default_rng(2)
    for _ in range(500):
        device, message, label = (int(rng.integers(n)) for n in (1 << 16, 256, 1 << 16))
        status = [ANSWERED, AWAY, int(rng.integers(20))][rng.integers(3)]
        packet = PacketAnswer(device, message, status, label).encode(NUMBER)
        assert Device(library, device).answer(packet, message) == (status, label)
        for other in (Device(library, device ^ 1 << int(rng.integers(16))),
                      Device(library, device, key=bytes([KEY[0] ^ 1, *KEY[1:]]))):
            assert other.answer(packet, message) is None
        assert Device(library, device).answer(packet, message ^ 1) is None
        bad = bytearray(packet)
        for bit in rng.choice(72, rng.integers(1, 4), replace=False):
            bad[bit // 8] ^= 1 << bit % 8
        assert Device(library, device).answer(bytes(bad), message) is None
        assert Device(library, device).answer(packet[:-1], message) is None
        assert Device(library, device).answer(packet + b"\0", message) is None


def test_ten_thousand_pieces_of_noise_are_no_answers(library):
    rng = np.random.default_rng(3)
    device = Device(library, 7)
    good = cobs_encode(PacketAnswer(7, 5, ANSWERED, 3).encode(NUMBER))
    other = cobs_encode(PacketAnswer(8, 5, ANSWERED, 3).encode(NUMBER))
    found = 0
    for _ in range(100):
        kinds = [lambda: rng.bytes(rng.integers(1, 40)), lambda: other, lambda: good[:rng.integers(1, 11)],
                 lambda: bytes([*good[:4], *rng.bytes(5), *good[9:]]), lambda: bytes(rng.integers(1, 12, 11).tolist())]
        noise = b"\0".join(kinds[rng.integers(len(kinds))]() for _ in range(100))
        assert device.line(noise, 5) == []
        assert device.line(good, 5) == [(ANSWERED, 3)]
        found += 1
    assert found == 100
    assert device.line(b"\x01" * 256 + good[1:], 5) == []  # too long, however long
    assert device.line(good, 5) == [(ANSWERED, 3)]


# --- devices --------------------------------------------------------------------------------------------------------


def messages(folder, sent, first=250, device=7, packet_bytes=20):
    """The header with what a device sends."""
    longest = max(map(len, sent))
    rows = ",\n".join("{" + ", ".join(map(str, p)) + "}" for p in sent)
    (folder / "messages.h").write_text(
        f"#define KEY {{{', '.join(map(str, KEY))}}}\n#define DEVICE {device}u\n#define PACKET_BYTES {packet_bytes}u\n"
        f"#define MESSAGES {len(sent)}u\n#define FIRST_MESSAGE {first}u\n"
        f"static const size_t lengths[] = {{{', '.join(str(len(p)) for p in sent)}}};\n"
        f"static const uint8_t payloads[][{longest}] = {{{rows}}};\n")


@needs_compiler
def test_a_device_on_a_serial_line(tmp_path):
    sent, labels = payloads(20, seed=4)
    messages(tmp_path, sent)
    compiled(COMPILERS[0], "-std=gnu11", *STRICT[1:], "-O1", "-fsanitize=undefined",
             "-fsanitize-undefined-trap-on-error", f"-I{SOURCES}", f"-I{tmp_path}", HERE / "device.c", HERE / "host.c",
             SOURCES / "fragments.c", "-o", tmp_path / "device")
    with serving(CodeEdge()) as server, Line() as line, \
            running(Gateway(SerialLink(line.port, 115_200, 20), DEPLOYMENT, server.endpoint, options())) as gateway:
        done = subprocess.run([tmp_path / "device"], pass_fds=[line.near], env={**os.environ, "LINE": str(line.near)},
                              capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{(250 + i) % 256}: status 0, label {label}" for i, label in enumerate(labels)]
    assert gateway.stats.counts["answers"] == 20
    assert not gateway.stats.malformed


@contextlib.contextmanager
def board(program):
    """A program on the emulated Cortex-M4, frozen at its start: the port of its line, and what lets it go and listens.

    The line gets a name when the emulator starts, and must be open before the program writes.
    """
    emulator = subprocess.Popen(
        ["qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-serial", "pty", "-monitor", "stdio", "-S",
         "-semihosting-config", "enable=on,target=native", "-kernel", str(program)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = ""
        while not (found := re.search(r"redirected to (/dev/\S+)", said)):
            line = emulator.stdout.readline()
            assert line, f"the emulator ended: {said}"
            said += line
        yield found[1], lambda: emulator.communicate("cont\n", timeout=120)[0]
    finally:
        emulator.kill()
        emulator.wait()


def built_for_the_board(program, sources, *folders):
    compiled("arm-none-eabi-gcc", *CORTEX_M4, "-Os", *(f"-I{f}" for f in (*folders, BOARD, HERE)), BOARD / "start.c",
             HERE / "board.c", *sources, "-o", program, "-T", BOARD / "board.ld", "-ffunction-sections",
             "-fdata-sections", "-nostartfiles", "--specs=rdimon.specs", "-Wl,--gc-sections")


@needs_board
def test_a_microcontroller_on_a_serial_line(tmp_path):
    sent, labels = payloads(5, seed=6)
    messages(tmp_path, sent)
    built_for_the_board(tmp_path / "device.elf", [HERE / "device.c", SOURCES / "fragments.c"], SOURCES, tmp_path)
    with board(tmp_path / "device.elf") as (port, go), serving(CodeEdge()) as server, running(
            Gateway(SerialLink(port, 115_200, 20), DEPLOYMENT, server.endpoint, options())) as gateway:
        said = go()
    told = re.findall(r"(\d+): status (\d+), label (\d+)", said)
    assert told == [(str(250 + i), "0", str(label)) for i, label in enumerate(labels)], said
    assert gateway.stats.counts["answers"] == 5
    assert not gateway.stats.malformed


@needs_board
def test_from_a_picture_on_the_microcontroller_to_its_label(runs, prepared, tmp_path):
    """The exported network in C -> payload -> packets -> gateway -> the bundle's edge -> the label, on the board."""
    pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")
    bundle = tmp_path / "bundle"
    export_result(runs["CodePruned"] / "best.json", bundle, target="c")
    c = bundle / "c"
    built_for_the_board(tmp_path / "device.elf", [HERE / "network.c", *(
        c / name for name in ("network.c", "kernels.c", "payload.c", "fragments.c"))], c)
    images = prepared.data.test.images[:4].numpy()
    device, edge = load_device(bundle), load_edge(bundle)
    wanted = edge.decode(device.encode(images)).argmax(1).tolist()
    with board(tmp_path / "device.elf") as (port, go), serving(edge) as server, running(
            Gateway(SerialLink(port, 115_200, 20), Deployment.load(bundle), server.endpoint, options())) as gateway:
        said = go()
    told = re.findall(r"(\d+): status (\d+), label (\d+)", said)
    assert told == [(str(i), "0", str(label)) for i, label in enumerate(wanted)], said
    assert gateway.stats.counts["answers"] == 4


@pytest.mark.skipif("arm-none-eabi-gcc" in MISSING, reason="needs arm-none-eabi-gcc: apt-get install "
                                                           "gcc-arm-none-eabi")
def test_it_is_small_and_keeps_no_state(tmp_path):
    compiled("arm-none-eabi-gcc", *CORTEX_M4, *STRICT, "-Os", "-c", SOURCES / "fragments.c", "-o", tmp_path / "f.o")
    text, data, bss = map(int, compiled("arm-none-eabi-size", tmp_path / "f.o").splitlines()[1].split()[:3])
    assert text < 600
    assert (data, bss) == (0, 0)
    used = compiled("arm-none-eabi-nm", "--undefined-only", tmp_path / "f.o").split()
    assert not set(used) & {"malloc", "printf", "__aeabi_fadd", "__aeabi_dadd"}
    assert [name for name in used if name != "U"] == []
