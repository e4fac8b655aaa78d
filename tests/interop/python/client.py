"""The C++ client, through the PyPI package `rocketmq`: python client.py NAME_SERVER MESSAGES.

Prints one line a scenario, as the Java programs do. Everything a message carries follows from its number.
"""
import random
import sys
import threading
import time

from rocketmq.client import Message, Producer, PullConsumer, PushConsumer, SendStatus

NAME_SERVER, MESSAGES = sys.argv[1], int(sys.argv[2])
failed = False


def body(n):
    if n % 100 == 7:  # over 4 KiB: the client compresses it
        return (b"%d " % n) * 2000
    return bytes(random.Random(n).choices(range(1, 256), k=1 + n % 700))


def tag(n):
    return "tag%d" % (n % 4)


def message(topic, n):
    made = Message(topic)
    made.set_tags(tag(n))
    made.set_keys("key%d" % n)
    made.set_property("n", str(n))
    made.set_property("note", "grün %d 漢字" % n)
    made.set_body(body(n))
    return made


def text(value):
    return value.decode() if isinstance(value, bytes) else value


class Tally:
    """What arrived, each message compared with what was sent."""

    def __init__(self):
        self.counts = {}
        self.mistakes = []
        self.lock = threading.Lock()

    def __call__(self, got):
        n = int(text(got.get_property("n")))
        seen = (text(got.tags), text(got.keys), text(got.get_property("note")), got.body)
        with self.lock:
            if seen != (tag(n), "key%d" % n, "grün %d 漢字" % n, body(n)):
                self.mistakes.append("message %d is %.200r" % (n, seen))
            self.counts[n] = self.counts.get(n, 0) + 1

    def complete(self, wanted, seconds):
        deadline = time.monotonic() + seconds
        while set(self.counts) < set(wanted) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not self.mistakes, "%d mistakes, first: %s" % (len(self.mistakes), self.mistakes[0])
        missing = set(wanted) - set(self.counts)
        assert not missing, "%d messages are missing, one is number %d" % (len(missing), min(missing))
        assert set(self.counts) == set(wanted), "unwanted messages arrived"


def scenario(name, body):
    global failed
    start = time.monotonic()
    try:
        verdict, detail = "ok", body()
    except Exception as problem:  # one line a scenario, whatever happened
        verdict, detail, failed = "FAIL", repr(problem), True
    print("%-4s %-58s %6.2f s  %s" % (verdict, "python " + name, time.monotonic() - start, detail), flush=True)


def send():
    for n in range(MESSAGES):
        if n % 5 == 4:
            producer.send_oneway(message(TOPIC, n))
        else:
            result = producer.send_sync(message(TOPIC, n))
            assert result.status == SendStatus.OK, "send %d: %r" % (n, result)
    return "%d messages, every fifth one-way" % MESSAGES


def consume(group, expression, wanted):
    tally = Tally()
    consumer = PushConsumer(group)
    consumer.set_namesrv_addr(NAME_SERVER)
    consumer.set_instance_name(group)
    consumer.subscribe(TOPIC, tally, expression)
    consumer.start()
    try:
        tally.complete(wanted, 60)
    finally:
        consumer.shutdown()
    return "%d messages" % len(wanted)


def pull():
    tally = Tally()
    consumer = PullConsumer("python-pull")
    consumer.set_namesrv_addr(NAME_SERVER)
    consumer.start()
    for got in consumer.pull(TOPIC):
        tally(got)
    consumer.shutdown()
    tally.complete(range(MESSAGES), 0)
    return "%d messages" % MESSAGES


TOPIC = "python"
producer = Producer("python-sender", timeout=10000)
producer.set_namesrv_addr(NAME_SERVER)
producer.start()
scenario("send: sync and one-way", send)
scenario("consume: push", lambda: consume("python-push", "*", range(MESSAGES)))
scenario("consume: push, tag filter", lambda: consume("python-tags", "tag1 || tag2", [n for n in range(MESSAGES) if n % 4 in (1, 2)]))
scenario("consume: pull", pull)
producer.shutdown()
