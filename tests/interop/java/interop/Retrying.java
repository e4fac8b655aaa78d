package interop;

import static interop.Harness.check;
import static interop.Harness.until;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/** Messages that come later or again: delay levels, send-back, dead letters. */
final class Retrying {
    private final Harness harness;

    Retrying(Harness harness) {
        this.harness = harness;
    }

    void scenarios() {
        harness.scenario("retry: delay levels arrive late, never early", this::delayed);
        harness.scenario("retry: a failed message comes again", this::sendBack);
        harness.scenario("retry: orderly consumption suspends and repeats", this::suspended);
        harness.scenario("retry: dead letters", this::deadLetters);
    }

    private String delayed() throws Exception {
        var corpus = new Corpus(harness.topic("delay", 2));
        long[] wait = {0, 1_000, 5_000};
        int count = 60;
        var sent = new long[count];
        var took = new ConcurrentHashMap<Integer, Long>();
        var consumer = harness.consumer("delay", "a", corpus.topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                int n = harness.noting(() -> corpus.verify(message));
                took.putIfAbsent(n, System.nanoTime() - sent[n]);
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        until("queues are assigned", 30, () -> Harness.assigned(consumer, corpus.topic) == 2);
        var producer = harness.producer("delay-sender");
        for (int n = 0; n < count; n++) {
            var message = corpus.message(n);
            message.setDelayTimeLevel(n % 3);
            sent[n] = System.nanoTime();
            producer.send(message);
        }
        until(() -> (count - took.size()) + " of " + count + " did not arrive", 30, () -> took.size() == count);
        var latest = new long[3];
        took.forEach((n, nanos) -> {
            long millis = nanos / 1_000_000;
            // Brokers count whole milliseconds, so a wait may seem one shorter.
            check(millis >= wait[n % 3] - 1, "%d: level %d came after %d ms", n, n % 3, millis);
            latest[n % 3] = Math.max(latest[n % 3], millis - wait[n % 3]);
        });
        check(latest[1] < 3_000 && latest[2] < 3_000, "up to %d and %d ms late", latest[1], latest[2]);
        return String.format("%d messages; level 1 and 2 were %d and %d ms late at most", count, latest[1], latest[2]);
    }

    private String sendBack() throws Exception {
        var corpus = new Corpus(harness.topic("back", 2));
        int count = 200;
        var deliveries = new ConcurrentHashMap<Integer, List<Long>>();
        var consumer = harness.consumer("back", "a", corpus.topic, "*");
        consumer.setMaxReconsumeTimes(5);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            MessageExt message = messages.get(0);
            int n = harness.noting(() -> corpus.verify(message));
            var times = deliveries.computeIfAbsent(n, number -> new ArrayList<>());
            synchronized (times) {
                times.add(System.nanoTime());
                harness.noting(() -> {
                    check(message.getReconsumeTimes() == times.size() - 1, "%d: delivery %d says it is retry %d", n, times.size(),
                            message.getReconsumeTimes());
                    return 0;
                });
                if (n % 4 == 0 && times.size() == 1) {
                    context.setDelayLevelWhenNextConsume(1);
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        Sending.fill(harness, corpus, 0, count);
        // A new group's retry queue may join only in the next rebalance of the client, after 20 s.
        until(() -> "every fourth twice, the others once: " + summary(deliveries, count), 45, () -> deliveries.size() == count
                && deliveries.entrySet().stream().allMatch(entry -> entry.getValue().size() == (entry.getKey() % 4 == 0 ? 2 : 1)));
        deliveries.forEach((n, times) -> check(times.size() == 1 || times.get(1) - times.get(0) >= 1_000_000_000L,
                "%d came again after %d ms", n, (times.get(times.size() - 1) - times.get(0)) / 1_000_000));
        return count + " messages, " + count / 4 + " of them twice";
    }

    private static String summary(Map<Integer, List<Long>> deliveries, int count) {
        long again = deliveries.values().stream().filter(times -> times.size() > 1).count();
        return deliveries.size() + " of " + count + " arrived, " + again + " more than once";
    }

    private String suspended() throws Exception {
        var corpus = new Corpus(harness.topic("suspend", 2));
        int count = 60;
        var order = new Tally(harness, corpus, count);
        var failed = ConcurrentHashMap.newKeySet();
        var consumer = harness.consumer("suspend", "a", corpus.topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            int n = harness.noting(() -> corpus.verify(messages.get(0)));
            if (n % 20 == 0 && failed.add(n)) {
                context.setSuspendCurrentQueueTimeMillis(100);
                return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
            }
            order.arrivedInOrder(messages);
            return ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
        Sending.fill(harness, corpus, 0, count);
        order.complete(40);
        order.once();
        check(failed.size() == 3, "%d refusals", failed.size());
        return count + " messages in order, " + failed.size() + " refused once";
    }

    private String deadLetters() throws Exception {
        var corpus = new Corpus(harness.topic("dead", 2));
        int count = 20;
        var attempts = new AtomicInteger();
        var consumer = harness.consumer("dead", "a", corpus.topic, "*");
        consumer.setMaxReconsumeTimes(1);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            attempts.incrementAndGet();
            context.setDelayLevelWhenNextConsume(1);
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        consumer.start();
        Sending.fill(harness, corpus, 0, count);
        // How a new group's retry queue joins is proved above; do not wait 20 s for the client's rebalance timer again.
        String retries = "%RETRY%" + harness.name("dead");
        until("route of the retry topic", 30, () -> harness.queues(retries) > 0);
        var client = consumer.getDefaultMQPushConsumerImpl();
        client.getmQClientFactory().updateTopicRouteInfoFromNameServer(retries);
        client.doRebalance();
        String topic = "%DLQ%" + harness.name("dead");
        until(() -> "the dead letters, after " + attempts + " attempts", 60, () -> stored(topic) == count);
        check(attempts.get() == 2 * count, "%d attempts", attempts.get());
        var letters = new DefaultLitePullConsumer(harness.name("letters"));
        letters.setNamesrvAddr(harness.nameServer);
        letters.setInstanceName(harness.name("letters"));
        letters.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        harness.closeLater(letters::shutdown);
        letters.start();
        letters.assign(letters.fetchMessageQueues(topic));
        Set<Integer> seen = ConcurrentHashMap.newKeySet();
        until(() -> seen.size() + " of " + count + " dead letters", 30, () -> {
            for (MessageExt letter : letters.poll(100)) {
                check(letter.getTopic().equals(topic), "topic %s", letter.getTopic());
                check(corpus.topic.equals(letter.getProperty("RETRY_TOPIC")), "RETRY_TOPIC is %s", letter.getProperty("RETRY_TOPIC"));
                check(letter.getReconsumeTimes() == 2, "reconsumeTimes is %d", letter.getReconsumeTimes());
                letter.setTopic(corpus.topic);
                seen.add(corpus.verify(letter));
            }
            return seen.size() == count;
        });
        return count + " letters after " + attempts + " attempts";
    }

    private long stored(String topic) throws Exception {
        return harness.admin.examineTopicStats(topic).getOffsetTable().values().stream().mapToLong(place -> place.getMaxOffset()).sum();
    }
}
