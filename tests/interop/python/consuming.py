"""Every way to consume that the C interface has."""
import ctypes
import itertools
import time
import uuid

from corpus import Tally, message, tag, text, until
from rocketmq.client import PullConsumer, PushConsumer, RecvMessage
from rocketmq.ffi import MessageModel, _CMessageQueue, _CPullStatus, dll


class Consuming:
    def __init__(self, name_server, sending):
        self.name_server, self.sending = name_server, sending

    def tally(self, orderly=False):
        return Tally(self.sending.topic, self.sending.receipts, orderly)

    def consumer(self, group, member, topic, callback, expression="*", **options):
        made = PushConsumer(group, **options)
        made.set_namesrv_addr(self.name_server)
        made.set_instance_name(group + "-" + member)
        made.subscribe(topic, callback, expression)
        made.start()
        return made

    def push(self, wanted):
        tally = self.tally()
        consumer = self.consumer("python-push", "a", self.sending.topic, tally)
        try:
            tally.complete(wanted, 60)
        finally:
            consumer.shutdown()
        tally.once()
        return "%d messages, each once" % len(wanted)

    def filtered(self, numbers):
        tally = self.tally()
        consumer = self.consumer("python-tags", "a", self.sending.topic, tally, "tag1 || tag2")
        wanted = [n for n in numbers if tag(n) in ("tag1", "tag2")]
        try:
            tally.complete(wanted, 60)
        finally:
            consumer.shutdown()
        return "%d of %d messages match" % (len(wanted), len(numbers))

    def orderly(self, wanted):
        tallies = [self.tally(orderly=True) for _ in range(2)]
        whole = self.tally(orderly=True)
        members = []
        for number, tally in enumerate(tallies):
            def arrived(got, tally=tally):
                whole(got)
                tally.counts[len(tally.counts)] = 1
            members.append(self.consumer("python-orderly", "m%d" % number, self.sending.topic, arrived, orderly=True))
        try:
            whole.complete(wanted, 90)
        finally:
            for member in members:
                member.shutdown()
        return "%d messages, every queue in order, members had %s" % (len(wanted), " and ".join(str(len(t.counts)) for t in tallies))

    def topic(self, name, numbers):
        """A topic of its own, created by sending to it, with a message in each queue."""
        topic = "python-%s-%s" % (name, uuid.uuid4().hex[:8])
        for n in numbers:
            self.sending.producer.send_orderly(message(topic, n), n)
        return topic

    def feed(self, topic, first, settled, what, seconds=40):
        """Sends one message after the other round the queues until a condition holds; the numbers it used."""
        deadline = time.monotonic() + seconds
        for n in itertools.count(first):
            if settled():
                return range(first, n)
            assert time.monotonic() < deadline, "after %d s: %s" % (seconds, what())
            self.sending.producer.send_orderly(message(topic, n), n)
            time.sleep(0.02)

    def broadcasting(self, count):
        """The C interface knows no place to start from, so members see what is sent from then on that they are there."""
        topic = self.topic("broadcast", range(4))
        tallies = [Tally(topic, {}) for _ in range(2)]
        members = [self.consumer("python-broadcast", "m%d" % number, topic, tally, message_model=MessageModel.BROADCASTING)
                   for number, tally in enumerate(tallies)]
        try:
            there = lambda: all(len(tally.queues) == 4 for tally in tallies)
            used = self.feed(topic, 4, there, lambda: "members see queues %r" % [tally.queues for tally in tallies])
            wanted = range(used.stop, used.stop + count)
            for n in wanted:
                self.sending.producer.send_sync(message(topic, n))
            for tally in tallies:
                until(lambda: tally.missing(wanted), 30, lambda: not [n for n in wanted if n not in tally.counts])
                assert not tally.mistakes, tally.mistakes[0]
                tally.once()
        finally:
            for member in members:
                member.shutdown()
        return "%d messages to each of 2 members" % count

    def members(self):
        """Two share the queues; one leaves, and the other has them all."""
        topic = self.topic("members", range(4))
        a, b, whole = Tally(topic, {}), Tally(topic, {}), Tally(topic, {})
        queues = {"a": set(), "b": set()}

        def member(name, tally):
            def arrived(got):
                whole(got)
                tally(got)
                queues[name].add(got.queue_id)
            return self.consumer("python-members", name, topic, arrived)

        first = member("a", a)
        second = member("b", b)
        try:
            # Who came first may have had all queues for a moment: count from when the other has two.
            used = self.feed(topic, 4, lambda: len(queues["b"]) >= 2, lambda: "%r" % queues)
            queues["a"].clear()
            queues["b"].clear()
            used = self.feed(topic, used.stop, lambda: len(queues["a"]) == len(queues["b"]) == 2, lambda: "%r" % queues)
            shared = dict(a=sorted(queues["a"]), b=sorted(queues["b"]))
            assert not queues["a"] & queues["b"], "both have the same queue: %r" % shared
            second.shutdown()
            leaving = time.monotonic()
            queues["a"].clear()
            used = self.feed(topic, used.stop, lambda: len(queues["a"]) == 4, lambda: "%r" % queues)
            took = time.monotonic() - leaving
            whole.complete(range(used.stop), 30)
            assert a.counts and b.counts
        finally:
            first.shutdown()
        return "%d messages, queues %r and %r; the one that stayed had all %.2f s after the leave" % (
            used.stop, shared["a"], shared["b"], took)

    def again(self):
        """Begun early, because the client wants to wait: what failed comes again after 10 s, what is late after 1 s."""
        topic = self.topic("again", range(4))
        self.retries, self.retried, self.delayed = {}, Tally(topic, {}), {}

        def arrived(got):
            n = int(text(got.get_property("n")))
            self.retries.setdefault(n, []).append((time.monotonic(), got.reconsume_times))
            if n == 6 and len(self.retries[n]) == 1:
                raise RuntimeError("message 6 is refused once: this is meant")
            self.retried(got)

        self.retrying = self.consumer("python-again", "a", topic, arrived)
        self.sent_late = time.monotonic()
        for n in range(4, 8):
            made = message(topic, n)
            if n == 5:
                made.set_delay_time_level(1)
            self.sending.producer.send_sync(made)
        return topic

    def came_again(self):
        try:
            self.retried.complete(range(8), 60)
        finally:
            self.retrying.shutdown()
        late = self.retries[5][0][0] - self.sent_late
        assert 1 <= late < 4, "level 1 came after %.2f s" % late
        (first, _), (second, times) = self.retries[6]
        assert second - first >= 10 and times == 1, "again after %.2f s as retry %d" % (second - first, times)
        return "level 1 came after %.2f s, a refused message after %.2f s as retry 1" % (late, second - first)

    def pull(self, wanted):
        """Every queue from its minimum to its maximum, and what is said there and beyond."""
        tally = self.tally(orderly=True)
        consumer = PullConsumer("python-pull")
        consumer.set_namesrv_addr(self.name_server)
        consumer.start()
        queues, count = ctypes.POINTER(_CMessageQueue)(), ctypes.c_int()
        topic = self.sending.topic.encode()
        assert dll.FetchSubscriptionMessageQueues(consumer._handle, topic, ctypes.pointer(queues), ctypes.pointer(count)) == 0
        for queue in (queues[i] for i in range(count.value)):
            def ask(offset):
                return dll.Pull(consumer._handle, ctypes.pointer(queue), b"*", offset, 32)
            offset, result = 0, ask(0)
            end = result.maxOffset
            assert result.minOffset == 0, "queue %d starts at %d" % (queue.queueId, result.minOffset)
            while offset < end:
                assert result.pullStatus == _CPullStatus.FOUND, "queue %d at %d: status %d" % (queue.queueId, offset, result.pullStatus)
                for i in range(result.size):
                    got = RecvMessage(result.msgFoundList[i])
                    assert got.queue_offset == offset + i, "queue %d: %d where %d is due" % (queue.queueId, got.queue_offset, offset + i)
                    tally(got)
                offset += result.size
                assert result.nextBeginOffset == offset and result.maxOffset == end
                dll.ReleasePullResult(result)
                result = ask(offset)
            assert result.pullStatus == _CPullStatus.NO_NEW_MSG, "at the end: status %d" % result.pullStatus
            beyond = ask(end + 5)
            assert beyond.pullStatus == _CPullStatus.OFFSET_ILLEGAL and beyond.nextBeginOffset == end, \
                "beyond the end: status %d, next %d" % (beyond.pullStatus, beyond.nextBeginOffset)
        dll.ReleaseSubscriptionMessageQueue(queues)
        consumer.shutdown()
        tally.complete(wanted, 0)
        tally.once()
        return "%d messages in %d queues, minima, maxima and refusals" % (len(wanted), count.value)
