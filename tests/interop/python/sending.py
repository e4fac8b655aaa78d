"""Every way to send that the C interface has."""
import ctypes
import threading
import uuid

import corpus
from corpus import message, text, until
from rocketmq.client import Message, Producer, PullConsumer, SendStatus
from rocketmq.exceptions import ProducerException
from rocketmq.ffi import SEND_EXCEPTION_CALLBACK, SEND_SUCCESS_CALLBACK, dll

# Queues of a topic that the client creates by sending to it.
QUEUES = 4
# Sends that wait for an answer at a time.
IN_FLIGHT = 256


def started(name_server, group):
    made = Producer(group, timeout=10000, max_message_size=corpus.BODY_LIMIT)
    made.set_namesrv_addr(name_server)
    made.start()
    return made


class Sending:
    def __init__(self, name_server, topic):
        self.name_server, self.topic = name_server, topic
        self.producer = started(name_server, "python-sender")
        # Number: (queue, offset) as far as the client says.
        self.receipts = {}
        self.lock = threading.Lock()

    def note(self, n, queue, status, offset):
        assert status == SendStatus.OK, "send %d: %r" % (n, status)
        with self.lock:
            self.receipts[n] = (queue, offset)

    def sync(self, numbers):
        for n in numbers:
            result = self.producer.send_sync(message(self.topic, n))
            self.note(n, None, result.status, result.offset)
        return "%d messages" % len(numbers)

    def one_way(self, numbers):
        for n in numbers:
            self.producer.send_oneway(message(self.topic, n))
        return "%d messages" % len(numbers)

    def asynchronous(self, numbers):
        """By the C interface itself: the module frees a callback while it runs."""
        room, kept, mistakes = threading.Semaphore(IN_FLIGHT), [], []

        def send(n):
            def done(result):
                try:
                    self.note(n, None, result.contents.sendStatus, result.contents.offset)
                except Exception as mistake:
                    mistakes.append(repr(mistake))
                room.release()

            def failed(problem):
                mistakes.append("send %d: %r" % (n, problem.msg))
                room.release()

            callbacks = SEND_SUCCESS_CALLBACK(done), SEND_EXCEPTION_CALLBACK(failed)
            kept.append(callbacks)
            room.acquire()
            assert dll.SendMessageAsync(self.producer._handle, message(self.topic, n), *callbacks) == 0, "send %d" % n

        for n in numbers:
            send(n)
        got = 0
        while got < IN_FLIGHT:
            assert room.acquire(timeout=30), "some callbacks were not called"
            got += 1
        assert not mistakes, "%d mistakes, first: %s" % (len(mistakes), mistakes[0])
        return "%d messages, %d at a time" % (len(numbers), IN_FLIGHT)

    def chosen(self, numbers):
        """To the queue that a function of ours names."""
        for n in numbers:
            result = self.producer.send_orderly(message(self.topic, n), n)
            self.note(n, n % QUEUES, result.status, result.offset)
        return "%d messages" % len(numbers)

    def chosen_one_way(self, numbers):
        for n in numbers:
            self.producer.send_oneway_orderly(message(self.topic, n), n)
            self.receipts[n] = (n % QUEUES, None)
        return "%d messages" % len(numbers)

    def at_limit(self, number):
        # Random bytes do not shrink; compressing them would only lift the body over the limit.
        assert dll.SetProducerCompressMsgBodyOverHowmuch(ctypes.c_void_p(self.producer._handle), 2**31 - 1) == 0
        try:
            return self.sync([number]) + " of %d bytes" % corpus.BODY_LIMIT
        finally:
            dll.SetProducerCompressMsgBodyOverHowmuch(ctypes.c_void_p(self.producer._handle), 4096)

    def over_limit(self):
        """The client refuses by itself. Told to allow more it hides the broker's refusal, but nothing may be stored."""
        topic = "python-over-" + uuid.uuid4().hex[:8]
        producer = started(self.name_server, "python-over")
        dll.SetProducerCompressMsgBodyOverHowmuch(ctypes.c_void_p(producer._handle), 2**31 - 1)
        producer.send_sync(message(topic, 0))
        large = Message(topic)
        content = bytes([1]) * (corpus.BODY_LIMIT + 1)
        dll.SetByteMessageBody(large, content, len(content))
        said = []
        for limit in (corpus.BODY_LIMIT, 4 * corpus.BODY_LIMIT):
            producer.set_max_message_size(limit)
            try:
                producer.send_sync(large)
            except ProducerException as refused:
                said.append(str(refused))
        assert len(said) == 2, "accepted"
        assert "over max value" in said[0], "refused otherwise: %r" % said
        producer.send_sync(message(topic, 1))
        producer.shutdown()
        assert sum(1 for _ in read(self.name_server, topic)) == 2, "something else was stored"
        return "by the client, and by the broker"

    def batch(self, server):
        """The client writes `batch=1` where Java writes `true`. RocketMQ reads that as no, and stores the batch as the body of one
        message, which begins with a zero byte; staticfire reads it as yes."""
        topic = "python-batch-" + uuid.uuid4().hex[:8]
        numbers = range(3)
        result = self.producer.send_batch([message(topic, n) for n in numbers])
        assert result.status == SendStatus.OK, "%r" % (result,)
        if server == "rocketmq":
            stored = [(got.body, text(got.get_property("n"))) for got in read(self.name_server, topic)]
            assert stored == [(b"", "")], "%r" % stored
            return "1 message with the whole batch as its body, as RocketMQ does"
        tally = corpus.Tally(topic, {}, orderly=True)
        for got in read(self.name_server, topic):
            tally(got)
        tally.complete(numbers, 0)
        tally.once()
        return "%d messages in one batch" % len(numbers)


def read(name_server, topic):
    """Every message of a topic, by pulling."""
    consumer = PullConsumer("python-read")
    consumer.set_namesrv_addr(name_server)
    consumer.start()
    try:
        yield from consumer.pull(topic)
    finally:
        consumer.shutdown()
