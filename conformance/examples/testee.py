"""A client of level L0, and its testee, as an example for other languages (TESTEE.md).

    cargo run -p bellwire-conformance -- run client -- python3 conformance/examples/testee.py
"""

import re
import socket
import sys
import threading

MAX_NUMBER = 2**53 - 1
MAX_LINE = 65_535
PAIRS = {0x0A: b"\x10J", 0x0D: b"\x10M", 0x10: b"\x10P"}
LETTERS = {pair[1]: byte for byte, pair in PAIRS.items()}
POSITION = rb"[A-Za-z0-9]{1,32}:[1-9][0-9]{0,15}"
KEY_AND_VALUE = rb"([a-z][a-z0-9.-]{0,31})=([!-:<-~]{1,255})"


class Malformed(Exception):
    """A line that the grammar does not allow."""


def demand(is_right):
    if not is_right:
        raise Malformed


def stuff(payload):
    return b"".join(PAIRS.get(byte, bytes([byte])) for byte in payload)


def unstuff(rest):
    """In one pass: what comes out is not unstuffed again."""
    demand(b"\r" not in rest)
    plain, bytes_left = bytearray(), iter(rest)
    for byte in bytes_left:
        if byte == 0x10:
            letter = next(bytes_left, None)
            demand(letter in LETTERS)
            byte = LETTERS[letter]
        plain.append(byte)
    return bytes(plain)


def is_number(text):
    return re.fullmatch(rb"[1-9][0-9]{0,15}", text) is not None and int(text) <= MAX_NUMBER


def parse(line):
    """Mark, word, attributes and rest of a line without its LF."""
    mark, space, after = line.partition(b" ")
    demand(space and (mark == b"*" or is_number(mark)))
    head, _, rest = after.partition(b" ")
    demand(len(mark) + 1 + len(head) <= 2_048)
    word, *parts = head.split(b";")
    attributes = {}
    for part in parts:
        found = re.fullmatch(KEY_AND_VALUE, part)
        demand(found and found[1] not in attributes and len(attributes) < 32)
        attributes[found[1]] = found[2]
    return mark, word, attributes, unstuff(rest)


def code(rest):
    found = rest.split(b" ")[0]
    demand(re.fullmatch(rb"[a-z][a-z0-9-]{0,63}", found))
    return found


def check_notice(word, attributes, rest):
    """A known notice with a wrong value is malformed; unknown ones are ignored."""
    arguments = rest.split(b" ")
    if word == b"/gap":
        demand(len(arguments) >= 5 and all(map(is_number, arguments[2:4])))
        demand(int(arguments[2]) <= int(arguments[3]))
    elif word in (b"/reset", b"/end"):
        at = 1 if word == b"/reset" else 2
        demand(len(arguments) > at and re.fullmatch(POSITION, arguments[at]))
    elif word == b"/error":
        # Its own count is broken, so it closes.
        demand(code(rest) != b"id-order")
    elif word == b"/bye":
        demand(is_number(attributes.get(b"retry", b"1")))
        if b"last" in attributes:
            code(rest)


def check_hello(mark, word, attributes):
    demand((mark, word, attributes.get(b"version")) == (b"*", b"/hello", b"1"))
    for key in (b"max-line", b"in-flight", b"lease", b"idle"):
        demand(is_number(attributes.get(key, b"1")))
    demand(int(attributes.get(b"max-line", MAX_LINE)) >= 1_024)


class Client:
    """Calls on one connection. `report` is given each outcome."""

    def __init__(self, address, report):
        host, port = address.rsplit(":", 1)
        self.report = report
        self.lock = threading.Lock()
        self.last_id = 0
        self.waiting = {}  # id: tag; None for a tombstone
        self.unread = b""
        self.socket = socket.create_connection((host, int(port)))
        try:
            mark, word, attributes, _ = parse(self.read_line())
            check_hello(mark, word, attributes)
        except (Malformed, EOFError):
            self.socket.close()
            raise
        self.max_line = int(attributes.get(b"max-line", MAX_LINE))

    def read_line(self):
        while b"\n" not in self.unread:
            demand(len(self.unread) < MAX_LINE)
            read = self.socket.recv(65_536)
            if not read:
                raise EOFError
            self.unread += read
        line, _, self.unread = self.unread.partition(b"\n")
        demand(len(line) < MAX_LINE)
        return line

    def request(self, tag, method, payload=b""):
        with self.lock:
            line = b"%d %s" % (self.last_id + 1, method)
            line += b" " + stuff(payload) if payload else b""
            if len(line) + 1 > self.max_line:
                return self.report(tag + b" not-sent")
            self.last_id += 1
            self.waiting[self.last_id] = tag
            try:
                self.socket.sendall(line + b"\n")
            except OSError:
                pass  # the reader tells the callers

    def read(self):
        """Reads until the connection is over."""
        try:
            while True:
                self.take(*parse(self.read_line()))
        except (Malformed, EOFError, OSError):
            self.socket.close()
        for tag in filter(None, self.waiting.values()):
            self.report(tag + b" unknown")

    def take(self, mark, word, attributes, rest):
        if mark != b"*":
            return self.reply(int(mark), word, rest)
        if word.startswith(b"/"):
            return check_notice(word, attributes, rest)
        demand(is_number(rest.split(b" ")[0]))  # a notification; nothing is subscribed

    def reply(self, number, word, rest):
        demand(word in (b"ok", b"more", b"err", b"no", b"cut"))
        why = b"" if word in (b"ok", b"more") else code(rest)
        if number not in self.waiting:
            return  # doubled, or unasked-for
        if word == b"more":
            tag, self.waiting[number] = self.waiting[number], None
            if tag:
                self.report(tag + b" unknown")
                self.socket.sendall(b"* /cancel %d\n" % number)
            return
        tag = self.waiting.pop(number)
        reply = b" reply" + (b" " + rest if rest else b"")
        outcome = {b"ok": reply, b"err": b" error " + why, b"no": b" refused " + why}
        if tag:
            self.report(tag + outcome.get(word, b" unknown"))


def report(event):
    """Writes an event, escaped, in one write: several threads report."""
    text = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in event
    )
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def read(client):
    client.read()
    report(b"closed" if client.is_closing else b"disconnected")


def connect(address):
    try:
        client = Client(address.decode(), report)
    except (Malformed, EOFError, OSError):
        report(b"failed")
        return None
    client.is_closing = False
    report(b"connected")
    threading.Thread(target=read, args=(client,), daemon=True).start()
    return client


def main():
    report(b"testee L0")
    client = None
    for line in sys.stdin.buffer:
        line = line.rstrip(b"\n")
        line = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), line)
        word, _, arguments = line.partition(b" ")
        if word == b"connect":
            client = connect(arguments)
        elif word == b"call":
            tag, method, *payload = arguments.split(b" ", 2)
            client.request(tag, method, *payload)
        elif word == b"close":
            client.is_closing = True
            client.request(None, b"/quit")


main()
