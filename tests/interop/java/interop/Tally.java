package interop;

import static interop.Harness.check;
import static interop.Harness.until;

import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.function.IntPredicate;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.message.MessageExt;

/** Counts arrivals of a corpus, compares each with what was sent, and knows what is missing. */
final class Tally {
    private final Harness harness;
    private final Corpus corpus;
    private final AtomicIntegerArray arrivals;
    /** Per queue: the highest offset delivered so far. */
    private final ConcurrentHashMap<Integer, Long> newest = new ConcurrentHashMap<>();

    Tally(Harness harness, Corpus corpus, int messages) {
        this.harness = harness;
        this.corpus = corpus;
        this.arrivals = new AtomicIntegerArray(messages);
    }

    /** Compares and counts; safe on client threads. */
    void arrived(List<MessageExt> messages) {
        for (MessageExt message : messages) {
            harness.noting(() -> arrivals.incrementAndGet(corpus.verifyPlace(message)));
        }
    }

    /** As {@link #arrived}, and a first delivery must be the next offset of its queue. */
    void arrivedInOrder(List<MessageExt> messages) {
        for (MessageExt message : messages) {
            newest.merge(message.getQueueId(), message.getQueueOffset(), (before, now) -> {
                if (now > before + 1) {
                    harness.mistake("queue " + message.getQueueId() + ": offset " + now + " came after " + before);
                }
                return Math.max(before, now);
            });
        }
        arrived(messages);
    }

    void listen(DefaultMQPushConsumer consumer) {
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            arrived(messages);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
    }

    /** Distinct messages that arrived. */
    int distinct() {
        int sum = 0;
        for (int n = 0; n < arrivals.length(); n++) {
            sum += arrivals.get(n) > 0 ? 1 : 0;
        }
        return sum;
    }

    /** Waits until every wanted message arrived; nothing unwanted may have. */
    void complete(int seconds, IntPredicate wanted) throws InterruptedException {
        until(() -> missing(wanted), seconds, () -> missing(wanted) == null);
        for (int n = 0; n < arrivals.length(); n++) {
            check(wanted.test(n) || arrivals.get(n) == 0, "message %d arrived and should not have", n);
        }
    }

    void complete(int seconds) throws InterruptedException {
        complete(seconds, n -> true);
    }

    /** Nothing may have arrived twice. */
    void once() {
        for (int n = 0; n < arrivals.length(); n++) {
            check(arrivals.get(n) <= 1, "message %d was delivered %d times", n, arrivals.get(n));
        }
    }

    private String missing(IntPredicate wanted) {
        int count = 0;
        int first = -1;
        for (int n = arrivals.length() - 1; n >= 0; n--) {
            if (wanted.test(n) && arrivals.get(n) == 0) {
                count++;
                first = n;
            }
        }
        return count == 0 ? null : count + " messages are missing, the first is number " + first + " " + receipt(first);
    }

    private String receipt(int n) {
        long[] place = corpus.receipts.get(n);
        return place == null ? "(no receipt)" : "(queue " + place[0] + " offset " + place[1] + ")";
    }
}
