"""The C++ client, through the PyPI package `rocketmq`: python client.py NAME_SERVER MESSAGES ours|rocketmq.

Prints one line a scenario, as the Java programs do, and one for each thing that the client cannot do.
"""
import sys
import time

import corpus
from consuming import Consuming
from sending import Sending

NAME_SERVER, MESSAGES, SERVER = sys.argv[1], int(sys.argv[2]), sys.argv[3]
# What the Java clients do here, and this one cannot.
CANNOT = [
    ("create topic", "its interface has no such call; a topic appears with the first send"),
    ("consume: from the first offset", "its interface has no such setting: new groups start at the end, or at 0 as the broker says"),
    ("bodies with zero bytes", "it stores them, but hands bodies out as C strings; the bodies here have none"),
    ("flags of messages", "its interface has no such call"),
]


def scenario(name, body, *arguments):
    start = time.monotonic()
    try:
        verdict, detail = "ok", body(*arguments)
    except Exception as problem:  # one line a scenario, whatever happened
        verdict, detail = "FAIL", repr(problem)
    print("%-4s %-58s %6.2f s  %s" % (verdict, "python " + name, time.monotonic() - start, detail), flush=True)


def spans(*parts):
    """The numbers of all messages, divided by the hundredths where a part ends."""
    ends = [0] + [MESSAGES * part // 100 for part in parts]
    return [range(start, end) for start, end in zip(ends, ends[1:])]


corpus.at_limit = MESSAGES
everything = range(MESSAGES + 1)
sync, asynchronous, one_way, chosen, chosen_one_way = spans(30, 55, 75, 90, 100)
sending = Sending(NAME_SERVER, "python")
consuming = Consuming(NAME_SERVER, sending)
scenario("send: sync", sending.sync, sync)
scenario("retry: begun", consuming.again)
scenario("send: async", sending.asynchronous, asynchronous)
scenario("send: one-way", sending.one_way, one_way)
scenario("send: to a chosen queue", sending.chosen, chosen)
scenario("send: one-way to a chosen queue", sending.chosen_one_way, chosen_one_way)
scenario("send: 4 MiB body", sending.at_limit, MESSAGES)
scenario("send: over 4 MiB refused", sending.over_limit)
scenario("send: batch", sending.batch, SERVER)
scenario("consume: pull", consuming.pull, everything)
scenario("consume: push", consuming.push, everything)
scenario("consume: push, tag filter", consuming.filtered, everything)
scenario("consume: push, broadcasting", consuming.broadcasting, MESSAGES // 10)
scenario("consume: push, orderly, two members", consuming.orderly, everything)
scenario("group: a member leaves", consuming.members)
scenario("retry: late messages, and a refused one again", consuming.came_again)
sending.producer.shutdown()
for name, reason in CANNOT:
    print("%-4s %-58s           %s" % ("n/a", "python " + name, reason), flush=True)
