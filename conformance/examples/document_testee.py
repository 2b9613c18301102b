"""A testee (TESTEE.md) for the clients that the protocol's documents print, on asyncio.

    python3 conformance/examples/document_testee.py FOLDER [L0|L1]

FOLDER has the printed blocks, each as a file: aio.py of PROTOCOL.md is a client of level L0, and
bellwire.py with bellwire_aio.py of docs/protocol/python-client.md is one of level L1, which is the
default. The standard library is enough. The clients leave some work to their application, which is
this testee: the caller's deadline, and subscribing again from the client's own position after an
end (C4.5). document_testee_twisted.py shares all of this file but `run`.
"""

import asyncio
import os
import random
import re
import sys
import threading
import time

FEATURES = {
    "L0": b"testee L0 attributes cancel counts deadline",
    "L1": b"testee L1 attributes cancel counts deadline from publish resubscribe",
}
# Pauses before a subscription that has not lived for SETTLED is repeated (C5.6), in seconds.
FIRST_PAUSE, LAST_PAUSE, SETTLED = 0.25, 30, 10


def report(*words):
    """Writes an event, escaped. Numbers may stand among its words; empty words are left out."""
    words = [b"%d" % word if isinstance(word, int) else word for word in words]
    text = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}"
        for byte in b" ".join(filter(None, words))
    )
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def word_and_options(head):
    """`call;deadline=5;a.b=c` as `call` and its options."""
    word, *options = head.split(b";")
    return word, dict(option.split(b"=", 1) for option in options)


class Subscription:
    """A topic that the application listens to, and its position. Takes the client's events."""

    def __init__(self, tag, epoch, next):
        self.tag = tag
        self.epoch, self.next = epoch, next
        self.head = 0  # the last number of an epoch whose end was told with it
        self.is_told = False  # whether `subscribed` was reported: it comes first
        self.held = []
        self.since, self.pause = 0, FIRST_PAUSE

    def report(self, *words):
        self.held.append((self.tag, *words))
        if self.is_told:
            self.tell()

    def tell(self):
        self.is_told = True
        for words in self.held:
            report(*words)
        self.held.clear()

    def begin(self, epoch, next):
        if self.epoch and self.next <= self.head:
            self.gap(self.next, self.head, b"lost")
        if self.epoch:
            self.report(b"reset", b"%s:%d" % (epoch, next))
        self.epoch, self.next, self.head = epoch, next, 0

    def gap(self, first, last, why):
        self.report(b"gap", first, last, why)
        self.next = last + 1

    def message(self, number, _, payload):
        self.report(b"message", number, payload)
        self.next = number + 1

    def ended(self, why):
        self.report(b"ended", why, b"%s:%d" % (self.epoch, self.next))

    def next_pause(self):
        """How long to wait before it is asked for again."""
        has_settled = time.monotonic() - self.since >= SETTLED
        pause = 0 if has_settled else self.pause
        self.pause = FIRST_PAUSE if has_settled else min(2 * pause, LAST_PAUSE)
        return pause * random.uniform(0.1, 1)


class Testee:
    """Obeys the commands, and reports what the client says.

    `connect(host, port, opened, event, closed)` connects, `then(reply, callback)` calls back with
    the outcome of a reply unless it was cancelled, and `later(seconds, callback)` after a time.
    """

    def __init__(self, connect, then, later):
        self.connect, self.then, self.later = connect, then, later
        self.request = None  # the client's `call`, from the hello on
        self.is_closing = False
        self.replies = {}  # by tag
        self.topics = {}  # subscriptions by topic
        self.ignored = [0, 0]  # replies, notifications

    def obey(self, line):
        line = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), line)
        head, _, arguments = line.partition(b" ")
        word, options = word_and_options(head)
        getattr(self, "obey_" + word.decode())(options, *arguments.split(b" ", 2))

    # The connection.

    def obey_connect(self, _, address):
        host, port = address.decode().rsplit(":", 1)
        self.connect(host, int(port), self.opened, self.event, self.closed)

    def opened(self, call):
        self.request = call
        report(b"connected")

    def closed(self):
        if self.request is None:
            report(b"failed")
        else:
            report(b"closed" if self.is_closing else b"disconnected")

    def obey_close(self, *_):
        self.is_closing = True
        self.ask(b"/quit", b"", lambda *_: None)

    def obey_counts(self, *_):
        report(b"counts %d %d" % tuple(self.ignored))

    # Calls.

    def ask(self, method, body, outcome):
        """Sends a request: `outcome(word, attributes, body)` follows, with the word None if it was
        not sent."""
        try:
            reply = self.request(method, body)
        except ConnectionError:
            return outcome(None, {}, b"")
        self.then(reply, lambda found: outcome(*found))
        return reply

    def exchange(self, tag, method, body, replied):
        """Sends a request and reports its outcome, by `replied` if it is an ok."""

        def outcome(word, attributes, body):
            self.replies.pop(tag, None)
            code = body.split(b" ")[0]
            if word == b"ok":
                replied(attributes, body)
            elif word in (b"err", b"no"):
                report(tag, b"error" if word == b"err" else b"refused", code)
            else:
                report(tag, b"unknown" if word else b"not-sent")

        reply = self.ask(method, body, outcome)
        if reply is not None:
            self.replies[tag] = reply

    def obey_call(self, options, tag, method, payload=b""):
        deadline = options.pop(b"deadline", None)
        method += b"".join(b";%s=%s" % option for option in options.items())
        self.exchange(tag, method, payload, lambda _, body: report(tag, b"reply", body))
        if deadline:
            self.later(int(deadline) / 1000, lambda: self.pass_deadline(tag))

    def obey_cancel(self, _, tag):
        self.replies.pop(tag).cancel()

    def pass_deadline(self, tag):
        if tag in self.replies:
            report(tag, b"unknown")
            self.obey_cancel({}, tag)

    def obey_publish(self, _, tag, *topic_and_payload):
        def published(attributes, _):
            report(tag, b"published", attributes[b"epoch"] + b":" + attributes[b"seq"])

        self.exchange(tag, b"/publish", b" ".join(topic_and_payload), published)

    # Subscriptions.

    def obey_subscribe(self, options, tag, topic):
        epoch, next = options.get(b"from", b":0").split(b":")
        self.topics[topic] = subscription = Subscription(tag, epoch, int(next))
        method = b"".join([b"/subscribe", *(b";%s=%s" % option for option in options.items())])

        def subscribed(attributes, _):
            subscription.since = time.monotonic()
            report(tag, b"subscribed", attributes[b"epoch"] + b":" + attributes[b"next"])
            subscription.tell()

        self.exchange(tag, method, topic, subscribed)

    def obey_unsubscribe(self, _, tag):
        topic = next(topic for topic, one in self.topics.items() if one.tag == tag)
        del self.topics[topic]
        self.ask(b"/unsubscribe", topic, lambda *_: None)
        report(tag, b"left")

    def event(self, topic, what, *details):
        """What the client tells. It goes on telling about a topic that is being left."""
        if what == "ignored":
            self.ignored[topic != b""] += 1
        elif topic in self.topics and what == "end":
            self.end(topic, *details)
        elif topic in self.topics:
            getattr(self.topics[topic], what)(*details)

    def end(self, topic, why, _epoch, _next, head=0):
        subscription = self.topics[topic]
        if why in (b"expired", b"shutdown"):
            subscription.head = head
            self.later(subscription.next_pause(), lambda: self.resume(topic, subscription))
        else:
            self.topics.pop(topic).ended(why)

    def resume(self, topic, subscription):
        def outcome(word, attributes, body):
            code = body.split(b" ")[0]
            if self.topics.get(topic) is not subscription:
                return
            subscription.since = time.monotonic()
            if word == b"no" and (code in (b"busy", b"closing") or b"retry" in attributes):
                pause = int(attributes.get(b"retry", 0)) / 1000 + subscription.next_pause()
                self.later(pause, lambda: self.resume(topic, subscription))
            elif word == b"no":
                self.topics.pop(topic).ended(code)

        if self.topics.get(topic) is subscription:
            position = b"%s:%d" % (subscription.epoch, subscription.next)
            self.ask(b"/subscribe;from=" + position, topic, outcome)


def level():
    """The level of the client to test."""
    return sys.argv[2] if len(sys.argv) > 2 else "L1"


def of_level_0(opened, event):
    """What a client of level L0 calls, for a testee that expects a client of level L1."""

    def channel(name, _keys, _body):
        if not name:
            event(b"", "ignored")

    return lambda client: opened(client.call), channel


def read_commands(testee, post):
    """Has each command obeyed by the loop of the client, by `post(function, argument)`."""

    def read():
        for line in sys.stdin.buffer:
            post(testee.obey, line.rstrip(b"\n"))
        os._exit(0)  # at once, whatever the client is doing

    report(FEATURES[level()])
    threading.Thread(target=read, daemon=True).start()


async def run():
    if level() == "L0":
        from aio import connect as printed
    else:
        from bellwire_aio import connect as printed

    loop = asyncio.get_running_loop()
    tasks = set()

    def connect(host, port, opened, event, closed):
        def ended(task):
            tasks.discard(task)
            task.exception()  # asyncio prints it otherwise; a malformed line is one of the reasons
            closed()

        if level() == "L0":
            opened, event = of_level_0(opened, event)
        task = asyncio.create_task(printed(host, port, opened, event))
        tasks.add(task)
        task.add_done_callback(ended)

    def then(reply, callback):
        reply.add_done_callback(lambda reply: reply.cancelled() or callback(reply.result()))

    read_commands(Testee(connect, then, loop.call_later), loop.call_soon_threadsafe)
    await loop.create_future()


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    asyncio.run(run())
