"""Messages whose content follows from their number, and what arrives of them."""
import random
import threading
import time

from rocketmq.client import Message
from rocketmq.ffi import dll

# The broker's limit of a body.
BODY_LIMIT = 4 * 1024 * 1024
# The number of the message whose body is as long as that.
at_limit = -1


def compressible(n):
    return n % 100 == 7 and n != at_limit


def body(n):
    """No zero bytes: the client hands bodies out as C strings."""
    if compressible(n):  # over 4 KiB: the client compresses it
        return (b"%d " % n) * 3000
    length = BODY_LIMIT if n == at_limit else 1 + n % 700
    return bytes(random.Random(n).choices(range(1, 256), k=length))


def tag(n):
    return None if n % 3 == 0 else "tag%d" % (n % 4)


def keys(n):
    return None if n % 5 == 0 else "key%d" % n if n % 5 < 3 else "key%d second%d" % (n, n)


def note(n):
    return "grün %d 漢字" % n


def message(topic, n):
    made = Message(topic)
    if tag(n):
        made.set_tags(tag(n))
    if keys(n):
        made.set_keys(keys(n))
    made.set_property("n", str(n))
    made.set_property("note", note(n))
    content = body(n)
    dll.SetByteMessageBody(made, content, len(content))
    return made


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def until(what, seconds, holds):
    """Waits for a condition; `what` says, when it is called, what is missing."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "after %d s: %s" % (seconds, what())
        time.sleep(0.01)


class Tally:
    """What arrived, each message compared with what was sent, its place with the receipt of the send."""

    def __init__(self, topic, receipts, orderly=False):
        self.topic, self.receipts, self.orderly = topic, receipts, orderly
        self.counts, self.mistakes, self.newest, self.queues = {}, [], {}, set()
        self.lock = threading.Lock()

    def __call__(self, got):
        try:
            n = self.verify(got)
        except Exception as mistake:
            with self.lock:
                self.mistakes.append(repr(mistake))
            return
        with self.lock:
            self.counts[n] = self.counts.get(n, 0) + 1
            self.queues.add(got.queue_id)
            before = self.newest.get(got.queue_id, -1)
            if self.orderly and got.queue_offset > before + 1:
                self.mistakes.append("queue %d: offset %d after %d" % (got.queue_id, got.queue_offset, before))
            self.newest[got.queue_id] = max(before, got.queue_offset)

    def verify(self, got):
        n = int(text(got.get_property("n")))
        assert got.topic == self.topic, "topic %s" % got.topic
        for name, is_now, was in [("tag", text(got.tags), tag(n) or ""), ("keys", text(got.keys), keys(n) or ""),
                                  ("property", text(got.get_property("note")), note(n)), ("body", got.body, body(n))]:
            assert is_now == was, "%s of message %d is %.100r, was %.100r" % (name, n, is_now, was)
        # The record of a body that the client compressed is shorter than the body.
        assert (got.store_size < len(got.body)) == compressible(n), "message %d is stored in %d bytes" % (n, got.store_size)
        queue, offset = self.receipts.get(n, (None, None))
        assert queue in (None, got.queue_id) and offset in (None, got.queue_offset), \
            "message %d in queue %d at %d, receipt %r" % (n, got.queue_id, got.queue_offset, self.receipts[n])
        return n

    def missing(self, wanted):
        gone = [n for n in wanted if n not in self.counts]
        return "%d messages are missing, one is number %s" % (len(gone), gone[:1])

    def complete(self, wanted, seconds):
        wanted = set(wanted)
        until(lambda: self.missing(wanted), seconds, lambda: self.counts.keys() >= wanted)
        assert not self.mistakes, "%d mistakes, first: %s" % (len(self.mistakes), self.mistakes[0])
        assert self.counts.keys() == wanted, "unwanted messages arrived"

    def once(self):
        twice = [n for n, count in self.counts.items() if count > 1]
        assert not twice, "%d arrived more than once, one is number %d" % (len(twice), twice[0])
