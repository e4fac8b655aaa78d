package interop;

import static interop.Harness.check;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * What a server bears while it is killed, and what it owes: a producer for each queue of one topic, and groups of consumers that
 * note what came first at each place.
 */
final class Load {
    static final int QUEUES = 4;

    private final Harness harness;
    final Corpus corpus;
    final AtomicLong acknowledged = new AtomicLong();
    private volatile boolean producing = true;
    private final List<Thread> producers = new ArrayList<>();

    Load(Harness harness, String topic) throws Exception {
        this.harness = harness;
        this.corpus = new Corpus(harness.topic(topic, QUEUES));
    }

    /** A producer for each queue; of these the last ones send without waiting for the answer before. */
    void produce(String name, int asynchronous) throws Exception {
        for (int queue = 0; queue < QUEUES; queue++) {
            int number = queue;
            var producer = harness.producer(name + "-" + queue);
            var thread = new Thread(() -> produce(producer, number, number >= QUEUES - asynchronous));
            thread.start();
            producers.add(thread);
        }
    }

    void stopProducing() throws InterruptedException {
        producing = false;
        for (Thread thread : producers) {
            thread.join();
        }
    }

    /** Numbers are used once, so a stored message that was never acknowledged is no duplicate. */
    private void produce(DefaultMQProducer producer, int queue, boolean asynchronous) {
        try {
            var target = new MessageQueue(corpus.topic, "broker-a", queue);
            for (int n = queue; producing; n += QUEUES) {
                try {
                    if (asynchronous) {
                        producer.send(corpus.message(n), target, noting(n), 3_000);
                    } else {
                        note(n, producer.send(corpus.message(n), target, 3_000));
                    }
                    // Load enough to be hit in the middle, little enough for the consumers to keep up.
                    Thread.sleep(asynchronous ? 2 : 1);
                } catch (Exception refused) {
                    // The broker is down: try again soon, not thousands of times.
                    Thread.sleep(20);
                }
            }
        } catch (Exception problem) {
            harness.mistake("producer: " + problem);
        }
    }

    private void note(int n, SendResult result) {
        // Other statuses promise nothing.
        if (result.getSendStatus() == SendStatus.SEND_OK) {
            corpus.sent(n, 1, result);
            acknowledged.incrementAndGet();
        }
    }

    private SendCallback noting(int n) {
        return new SendCallback() {
            @Override
            public void onSuccess(SendResult result) {
                note(n, result);
            }

            @Override
            public void onException(Throwable refused) {
                // Nothing was promised.
            }
        };
    }

    /** A group of consumers, one member at a time. */
    final class Group {
        private final String name;
        private final boolean orderly;
        /** Where the producer waits for each answer, numbers ascend. */
        private final int ascending;
        /** First deliveries of each queue, by offset: the number of the message. No gaps, or order was broken. */
        private final List<List<Integer>> consumed = new ArrayList<>();
        private DefaultMQPushConsumer consumer;
        int members;
        long repeated;

        Group(String name, boolean orderly, int ascending) {
            this.name = name;
            this.orderly = orderly;
            this.ascending = ascending;
            for (int queue = 0; queue < QUEUES; queue++) {
                consumed.add(new ArrayList<>());
            }
        }

        /** One thread, one message at a time: then the order of deliveries is the order of the queue. */
        void start() throws Exception {
            consumer = harness.consumer(name, "member" + members++, corpus.topic, "*");
            consumer.setConsumeThreadMin(1);
            consumer.setConsumeThreadMax(1);
            if (orderly) {
                consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                    messages.forEach(message -> harness.noting(() -> arrived(message)));
                    return ConsumeOrderlyStatus.SUCCESS;
                });
            } else {
                consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                    messages.forEach(message -> harness.noting(() -> arrived(message)));
                    return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
                });
            }
            // The client's 3 s after a failed pull would be most of the test.
            consumer.getDefaultMQPushConsumerImpl().setPullTimeDelayMillsWhenException(200);
            consumer.start();
        }

        void stop() {
            consumer.shutdown();
        }

        void persist() {
            consumer.getDefaultMQPushConsumerImpl().persistConsumerOffset();
        }

        /** What the broker remembers of the group's progress; 0 where it has nothing. */
        long[] stored() throws Exception {
            var offsets = new long[QUEUES];
            Harness.until("the group's progress", 30, () -> {
                var table = harness.admin.examineConsumeStats(harness.name(name), corpus.topic).getOffsetTable();
                table.forEach((queue, progress) -> offsets[queue.getQueueId()] = Math.max(0, progress.getConsumerOffset()));
                return true;
            });
            return offsets;
        }

        long[] consumed() {
            synchronized (consumed) {
                return consumed.stream().mapToLong(List::size).toArray();
            }
        }

        long total() {
            return Arrays.stream(consumed()).sum();
        }

        private int arrived(MessageExt message) {
            int n = corpus.verifyPlace(message);
            synchronized (consumed) {
                List<Integer> queue = consumed.get(message.getQueueId());
                long offset = message.getQueueOffset();
                check(offset <= queue.size(), "%s, queue %d: offset %d came after %d", name, message.getQueueId(), offset, queue.size() - 1);
                if (offset < queue.size()) {
                    repeated++;
                    check(queue.get((int) offset) == n, "%s, queue %d offset %d: number %d, was %d", name, message.getQueueId(), offset, n,
                            queue.get((int) offset));
                } else {
                    check(queue.isEmpty() || message.getQueueId() >= ascending || queue.get(queue.size() - 1) < n,
                            "%s, queue %d offset %d: number %d after %s", name, message.getQueueId(), offset, n,
                            queue.isEmpty() ? "" : queue.get(queue.size() - 1));
                    queue.add(n);
                }
            }
            return n;
        }

        /** An acknowledged message that has not been consumed; null if there is none. */
        String missing() {
            synchronized (consumed) {
                for (Map.Entry<Integer, long[]> receipt : corpus.receipts.entrySet()) {
                    List<Integer> queue = consumed.get((int) receipt.getValue()[0]);
                    long offset = receipt.getValue()[1];
                    if (offset >= queue.size() || !queue.get((int) offset).equals(receipt.getKey())) {
                        return "number " + receipt.getKey() + " acknowledged at " + Arrays.toString(receipt.getValue()) + " was not consumed by "
                                + name + "; consumed " + Arrays.toString(consumed()) + ", acknowledged " + acknowledged;
                    }
                }
            }
            return null;
        }
    }
}
