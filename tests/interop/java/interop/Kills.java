package interop;

import static interop.Harness.check;
import static interop.Harness.until;

import java.io.File;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * The broker dies under load, again and again, and must owe nobody anything.
 *
 * {@code Kills NAME_SERVER BROKER_PORT SEED KILLS STOPS RECEIPTS LOG SERVER_COMMAND VERIFY_COMMAND}: starts the server by its
 * command (a shell line that execs it), loads it with one producer thread a queue and one push consumer, ends it with SIGKILL or
 * SIGTERM at random points, runs the verify command on what it left, starts it again.
 */
final class Kills {
    private static final int QUEUES = 4;

    private final Harness harness;
    private final Corpus corpus;
    private final int port;
    private final Random random;
    private final File log;
    private final String serverCommand;
    private final String verifyCommand;
    private Process server;

    private final AtomicLong acknowledged = new AtomicLong();
    private volatile boolean producing = true;
    /** First deliveries of each queue, by offset: the number of the message. No gaps, or order was broken. */
    private final List<List<Integer>> consumed = new ArrayList<>();
    private long repeated;
    /** The most messages of one queue that a member would get again after an ending, had it started anew. */
    private long lostProgress;
    private DefaultMQPushConsumer consumer;
    private int consumers;

    private Kills(Harness harness, int port, long seed, String log, String serverCommand, String verifyCommand, Process server) throws Exception {
        this.harness = harness;
        this.port = port;
        this.random = new Random(seed);
        this.log = new File(log);
        this.serverCommand = serverCommand;
        this.verifyCommand = verifyCommand;
        this.server = server;
        this.corpus = new Corpus(harness.topic("kills", QUEUES));
        for (int queue = 0; queue < QUEUES; queue++) {
            consumed.add(new ArrayList<>());
        }
    }

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[1]);
        long seed = Long.parseLong(arguments[2]);
        int kills = Integer.parseInt(arguments[3]);
        int stops = Integer.parseInt(arguments[4]);
        Process server = start(arguments[7], new File(arguments[6]));
        try {
            waitForPort(server, port);
            var harness = new Harness(arguments[0], "5.4.0", 0, ".");
            var test = new Kills(harness, port, seed, arguments[6], arguments[7], arguments[8], server);
            harness.scenario("kills: " + kills + " kill -9 and " + stops + " stops, seed " + seed, () -> {
                try {
                    return test.run(kills, stops);
                } finally {
                    test.producing = false;
                    Receipts.write(arguments[5], test.corpus);
                    test.server.destroyForcibly().waitFor();
                }
            });
        } finally {
            server.destroyForcibly();
        }
        System.exit(42);
    }

    private static Process start(String command, File log) throws Exception {
        return new ProcessBuilder("bash", "-c", command).redirectErrorStream(true).redirectOutput(ProcessBuilder.Redirect.appendTo(log)).start();
    }

    private static void waitForPort(Process server, int port) throws Exception {
        until("the server listens", 60, () -> {
            check(server.isAlive(), "the server ended with status %d while it started", server.isAlive() ? 0 : server.exitValue());
            try (var socket = new Socket()) {
                socket.connect(new InetSocketAddress("127.0.0.1", port), 100);
                return true;
            }
        });
    }

    private String run(int kills, int stops) throws Exception {
        startConsumer();
        var producers = new ArrayList<Thread>();
        for (int queue = 0; queue < QUEUES; queue++) {
            int number = queue;
            var producer = harness.producer("killed-sender-" + queue);
            var thread = new Thread(() -> produce(producer, number));
            thread.start();
            producers.add(thread);
        }
        var endings = new ArrayList<Boolean>(Collections.nCopies(kills, true));
        endings.addAll(Collections.nCopies(stops, false));
        Collections.shuffle(endings, random);
        long restarts = 0;
        for (boolean kill : endings) {
            letItRun();
            // Sometimes nobody is there to remind the broker of the group's progress: the next member depends on what it stored.
            boolean absent = random.nextInt(4) == 0;
            if (absent) {
                System.err.println("nobody consumes");
                consumer.shutdown();
            }
            long start = System.nanoTime();
            end(kill);
            restarts += System.nanoTime() - start;
            if (absent) {
                startConsumer();
            }
        }
        letItRun();
        producing = false;
        for (Thread thread : producers) {
            thread.join();
        }
        until(this::missing, 90, () -> missing() == null);
        until("every offset is stored", 20, () -> {
            consumer.getDefaultMQPushConsumerImpl().persistConsumerOffset();
            return Arrays.equals(storedOffsets(), consumedOffsets());
        });
        // What a clean stop stored, a kill after it must not lose.
        end(false);
        end(true);
        check(Arrays.equals(storedOffsets(), consumedOffsets()), "stored offsets %s, consumed %s", Arrays.toString(storedOffsets()),
                Arrays.toString(consumedOffsets()));
        return String.format("%d acknowledged and consumed, %d deliveries repeated, %d consumer restarts, a kill lost progress of %d at most, "
                + "%d ms from signal to serving", acknowledged.get(), repeated, consumers - 1, lostProgress,
                endings.isEmpty() ? 0 : restarts / endings.size() / 1_000_000);
    }

    /** Waits for some progress of both sides since the last start, then for a moment that has nothing to do with it. */
    private void letItRun() throws Exception {
        long sent = acknowledged.get() + 20 + random.nextInt(600);
        until(() -> "the producers make progress: " + acknowledged + " of " + sent, 60, () -> acknowledged.get() >= sent);
        long seen = Arrays.stream(consumedOffsets()).sum() + 1 + random.nextInt(200);
        until(() -> "the consumer makes progress to " + seen, 60, () -> Arrays.stream(consumedOffsets()).sum() >= seen);
        TimeUnit.MICROSECONDS.sleep(random.nextInt(300_000));
    }

    /** Ends the server, looks at what it left, starts it, and compares the progress it remembers. */
    private void end(boolean kill) throws Exception {
        long[] before = kill ? new long[QUEUES] : storedOffsets();
        if (kill) {
            server.destroyForcibly();
        } else {
            server.destroy();
        }
        check(server.waitFor(30, TimeUnit.SECONDS), "the server did not end");
        check(kill || server.exitValue() == 0 || server.exitValue() == 143, "the stopped server's status is %d", server.exitValue());
        Process verify = start(verifyCommand, log);
        check(verify.waitFor(60, TimeUnit.SECONDS) && verify.exitValue() == 0, "store verify: status %d", verify.exitValue());
        server = start(serverCommand, log);
        waitForPort(server, port);
        long[] stored = storedOffsets();
        long[] now = consumedOffsets();
        System.err.printf("%s: stored %s, consumed %s, acknowledged %d%n", kill ? "killed" : "stopped", Arrays.toString(stored),
                Arrays.toString(now), acknowledged.get());
        for (int queue = 0; queue < QUEUES; queue++) {
            check(stored[queue] <= now[queue], "queue %d: stored offset %d, but only %d were consumed", queue, stored[queue], now[queue]);
            lostProgress = Math.max(lostProgress, now[queue] - stored[queue]);
            check(stored[queue] >= before[queue], "queue %d: stored offset %d was %d before a clean stop", queue, stored[queue], before[queue]);
        }
    }

    /** What the broker remembers of the group's progress; 0 where it has nothing. */
    private long[] storedOffsets() throws Exception {
        var offsets = new long[QUEUES];
        until("the group's progress", 30, () -> {
            var table = harness.admin.examineConsumeStats(harness.name("killed"), corpus.topic).getOffsetTable();
            table.forEach((queue, progress) -> offsets[queue.getQueueId()] = Math.max(0, progress.getConsumerOffset()));
            return true;
        });
        return offsets;
    }

    private long[] consumedOffsets() {
        synchronized (consumed) {
            return consumed.stream().mapToLong(List::size).toArray();
        }
    }

    /** One queue's producer: numbers are used once, so a stored message that was never acknowledged is no duplicate. */
    private void produce(DefaultMQProducer producer, int queue) {
        try {
            var target = new MessageQueue(corpus.topic, "broker-a", queue);
            for (int n = queue; producing; n += QUEUES) {
                try {
                    SendResult result = producer.send(corpus.message(n), target, 3_000);
                    // Other statuses promise nothing.
                    if (result.getSendStatus() == SendStatus.SEND_OK) {
                        corpus.sent(n, 1, result);
                        acknowledged.incrementAndGet();
                    }
                    // Load enough to be hit in the middle, little enough for the consumer to keep up.
                    Thread.sleep(1);
                } catch (Exception refused) {
                    // The broker is down: try again soon, not thousands of times.
                    Thread.sleep(20);
                }
            }
        } catch (Exception problem) {
            harness.mistake("producer: " + problem);
        }
    }

    /** One thread, one message at a time: then the order of deliveries is the order of the queue. */
    private void startConsumer() throws Exception {
        consumer = harness.consumer("killed", "member" + consumers++, corpus.topic, "*");
        consumer.setConsumeThreadMin(1);
        consumer.setConsumeThreadMax(1);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message -> harness.noting(() -> arrived(message)));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        // The client's 3 s after a failed pull would be most of the test.
        consumer.getDefaultMQPushConsumerImpl().setPullTimeDelayMillsWhenException(200);
        consumer.start();
    }

    private int arrived(MessageExt message) {
        int n = corpus.verifyPlace(message);
        synchronized (consumed) {
            List<Integer> queue = consumed.get(message.getQueueId());
            long offset = message.getQueueOffset();
            check(offset <= queue.size(), "queue %d: offset %d came after %d", message.getQueueId(), offset, queue.size() - 1);
            if (offset < queue.size()) {
                repeated++;
                check(queue.get((int) offset) == n, "queue %d offset %d: number %d, was %d", message.getQueueId(), offset, n, queue.get((int) offset));
            } else {
                check(queue.isEmpty() || queue.get(queue.size() - 1) < n, "queue %d offset %d: number %d after %s", message.getQueueId(),
                        offset, n, queue.isEmpty() ? "" : queue.get(queue.size() - 1));
                queue.add(n);
            }
        }
        return n;
    }

    /** An acknowledged message that has not been consumed; null if there is none. */
    private String missing() {
        synchronized (consumed) {
            for (Map.Entry<Integer, long[]> receipt : corpus.receipts.entrySet()) {
                List<Integer> queue = consumed.get((int) receipt.getValue()[0]);
                long offset = receipt.getValue()[1];
                if (offset >= queue.size() || !queue.get((int) offset).equals(receipt.getKey())) {
                    return "number " + receipt.getKey() + " acknowledged at " + Arrays.toString(receipt.getValue()) + " was not consumed; consumed "
                            + Arrays.toString(consumedOffsets()) + ", acknowledged " + acknowledged;
                }
            }
        }
        return null;
    }
}
