package interop;

import static interop.Harness.check;
import static interop.Harness.until;

import java.util.concurrent.Semaphore;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;

/** Every way to send. All of them fill one corpus, which the consuming scenarios read. */
final class Sending {
    static final int QUEUES = 8;

    private final Harness harness;
    final Corpus corpus;

    Sending(Harness harness) {
        this.harness = harness;
        this.corpus = new Corpus(harness.name("mixed"));
        this.corpus.atLimit = harness.messages;
    }

    /** Messages in the corpus: the 10,000 and the one at the size limit. */
    int total() {
        return harness.messages + 1;
    }

    void scenarios() {
        int n = harness.messages;
        harness.scenario("send: create topic", this::createTopic);
        harness.scenario("send: sync", () -> sync(0, n / 5));
        harness.scenario("send: async", () -> async(n / 5, n / 2));
        harness.scenario("send: one-way", () -> oneWay(n / 2, n * 7 / 10));
        harness.scenario("send: batch", () -> batch(n * 7 / 10, n));
        harness.scenario("send: 4 MiB body", this::atLimit);
        harness.scenario("send: over 4 MiB refused", this::overLimit);
        harness.scenario("send: new topic created by the send", this::autoCreate);
    }

    /** The whole corpus, sent now if the sending scenarios were not chosen and the broker does not have it already. */
    Corpus filled() throws Exception {
        if (harness.mqadmin("topicList", "-n", harness.nameServer).contains(corpus.topic)) {
            check(stored() == total(), "%d of %d messages are stored", stored(), total());
            return corpus;
        }
        int n = harness.messages;
        createTopic();
        sync(0, n / 2);
        batch(n / 2, n);
        atLimit();
        return corpus;
    }

    private DefaultMQProducer producer() throws Exception {
        var producer = harness.producer("sending");
        producer.setCompressMsgBodyOverHowmuch(4096);
        return producer;
    }

    private String createTopic() throws Exception {
        String said = harness.mqadmin("updateTopic", "-n", harness.nameServer, "-c", "DefaultCluster", "-t", corpus.topic, "-r",
                "" + QUEUES, "-w", "" + QUEUES);
        check(said.contains("create topic to") && said.contains("success"), "mqadmin said: %s", said);
        until("route of " + corpus.topic, 30, () -> harness.queues(corpus.topic) == QUEUES);
        return QUEUES + " queues";
    }

    private String sync(int from, int to) throws Exception {
        var producer = producer();
        for (int n = from; n < to; n++) {
            corpus.sent(n, 1, producer.send(corpus.message(n)));
        }
        return (to - from) + " messages";
    }

    private String async(int from, int to) throws Exception {
        var producer = producer();
        var inFlight = new Semaphore(256);
        for (int n = from; n < to; n++) {
            int number = n;
            inFlight.acquire();
            producer.send(corpus.message(n), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    try {
                        corpus.sent(number, 1, result);
                    } catch (RuntimeException mistake) {
                        harness.mistake(mistake.getMessage());
                    }
                    inFlight.release();
                }

                @Override
                public void onException(Throwable problem) {
                    harness.mistake(number + ": " + problem);
                    inFlight.release();
                }
            });
        }
        until("all callbacks", 30, () -> inFlight.availablePermits() == 256);
        return (to - from) + " messages";
    }

    private String oneWay(int from, int to) throws Exception {
        var producer = producer();
        long before = stored();
        for (int n = from; n < to; n++) {
            producer.sendOneway(corpus.message(n));
        }
        until(() -> (to - from - stored(before)) + " of " + (to - from) + " one-way messages are not stored", 30,
                () -> stored(before) == to - from);
        return (to - from) + " messages";
    }

    private String batch(int from, int to) throws Exception {
        var producer = producer();
        int batches = 0;
        for (int n = from; n < to; batches++) {
            int count = Math.min(1 + n % 63, to - n);
            corpus.sent(n, count, producer.send(corpus.batch(n, count)));
            n += count;
        }
        return (to - from) + " messages in " + batches + " batches";
    }

    private String atLimit() throws Exception {
        var producer = producer();
        // Random bytes do not shrink; compressing them would only lift the body over the limit.
        producer.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
        corpus.sent(corpus.atLimit, 1, producer.send(corpus.message(corpus.atLimit)));
        return "body of " + Corpus.BODY_LIMIT + " bytes";
    }

    /** The client refuses by itself; told to allow more, the broker must refuse with its code for an illegal message. */
    private String overLimit() throws Exception {
        var producer = producer();
        producer.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
        var message = new Message(corpus.topic, new byte[Corpus.BODY_LIMIT + 1]);
        long before = stored();
        try {
            producer.send(message);
            check(false, "the client accepted %d bytes", message.getBody().length);
        } catch (MQClientException refused) {
            check(refused.getMessage().contains("max"), "refused otherwise: %s", refused);
        }
        producer.setMaxMessageSize(16 * 1024 * 1024);
        try {
            SendResult result = producer.send(message);
            check(false, "the broker accepted %d bytes: %s", message.getBody().length, result);
        } catch (MQBrokerException refused) {
            check(refused.getResponseCode() == 13, "refused with code %d: %s", refused.getResponseCode(), refused);
        }
        corpusUnchanged(before);
        check(producer.send(new Message(harness.name("after-refusal"), new byte[1])) != null, "no send after the refusal");
        return "by the client, and by the broker with code 13";
    }

    private void corpusUnchanged(long before) {
        check(stored(before) == 0, "%d messages were stored", stored(before));
    }

    private String autoCreate() throws Exception {
        String topic = harness.name("auto");
        var result = producer().send(new Message(topic, "first".getBytes()));
        check(result.getQueueOffset() == 0, "%s", result);
        until("route of " + topic, 30, () -> harness.queues(topic) > 0);
        return harness.queues(topic) + " queues";
    }

    /** Messages in the corpus's topic. */
    private long stored() {
        try {
            long sum = 0;
            for (var place : harness.admin.examineTopicStats(corpus.topic).getOffsetTable().values()) {
                sum += place.getMaxOffset() - place.getMinOffset();
            }
            return sum;
        } catch (Exception problem) {
            throw new IllegalStateException(problem);
        }
    }

    private long stored(long before) {
        return stored() - before;
    }

    /** Sends numbers {@code from..to} of a corpus quickly, in batches round the queues. */
    static void fill(Harness harness, Corpus corpus, int from, int to) throws Exception {
        var producer = harness.producer("fill-" + corpus.topic);
        for (int n = from; n < to; n += 32) {
            int count = Math.min(32, to - n);
            corpus.sent(n, count, producer.send(corpus.batch(n, count)));
        }
        producer.shutdown();
    }
}
