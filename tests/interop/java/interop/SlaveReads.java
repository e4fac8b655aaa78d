package interop;

import static interop.Harness.check;
import static interop.Harness.until;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * A leader that is always busy sends every consumer to a slave, and the official clients go there.
 *
 * {@code SlaveReads NAME_SERVERS LOG (PORT SERVER_COMMAND)...}: who handed out how much is what the brokers themselves count.
 */
final class SlaveReads {
    private static final int QUEUES = 4;
    private static final int MESSAGES = 4_000;
    /** What the leader may hand out to one reader before its first advice arrives: a full pull of each queue. */
    private static final int FIRST_PULLS = QUEUES * 32;

    private final Harness harness;
    private final String topic;
    /** How often each message arrived, by its keys. */
    private final Map<String, AtomicInteger> arrived = new ConcurrentHashMap<>();

    private SlaveReads(Harness harness) throws Exception {
        this.harness = harness;
        this.topic = harness.topic("read-from-slaves", QUEUES);
    }

    public static void main(String[] arguments) throws Exception {
        Server.group(arguments, 2, (harness, nodes) -> {
            var reads = new SlaveReads(harness);
            harness.scenario("slaves: a busy leader's messages are stored", reads::store);
            harness.scenario("slaves: push consumers read there", () -> reads.read(reads::push));
            harness.scenario("slaves: orderly consumers read there", () -> reads.read(reads::orderly));
            harness.scenario("slaves: pulls read there", () -> reads.read(reads::pull));
        });
    }

    private String store() throws Exception {
        var producer = harness.producer("read-from-slaves");
        for (int queue = 0; queue < QUEUES; queue++) {
            var to = new MessageQueue(topic, "broker-a", queue);
            for (int number = 0; number < MESSAGES / QUEUES; number += 100) {
                var batch = new ArrayList<Message>();
                for (int at = number; at < number + 100; at++) {
                    batch.add(new Message(topic, "", queue + "-" + at, new byte[100]));
                }
                producer.send(batch, to);
            }
        }
        return MESSAGES + " messages in " + QUEUES + " queues";
    }

    /** Something that reads everything. */
    private interface Reader {
        void start() throws Exception;
    }

    private String read(Reader reader) throws Exception {
        arrived.clear();
        Map<Long, Long> before = handedOut();
        reader.start();
        until(() -> arrived.size() + " of " + MESSAGES + " arrived", 60, () -> arrived.size() == MESSAGES);
        check(arrived.values().stream().allMatch(times -> times.get() == 1), "some arrived twice");
        Map<Long, Long> after = handedOut();
        long leader = after.get(0L) - before.get(0L);
        long slaves = 0;
        for (long id : after.keySet()) {
            slaves += id == 0 ? 0 : after.get(id) - before.get(id);
        }
        check(slaves >= MESSAGES - FIRST_PULLS, "the leader handed out %d, its slaves only %d", leader, slaves);
        return String.format("%d of %d handed out by slaves, %d by the leader", slaves, MESSAGES, leader);
    }

    /** Messages handed out by each broker since it started, by id. */
    private Map<Long, Long> handedOut() throws Exception {
        var counts = new HashMap<Long, Long>();
        var brokers = harness.admin.examineBrokerClusterInfo().getBrokerAddrTable().get("broker-a").getBrokerAddrs();
        for (var broker : brokers.entrySet()) {
            String count = harness.admin.fetchBrokerRuntimeStats(broker.getValue()).getTable().get("msgGetTotalTodayNow");
            counts.put(broker.getKey(), Long.valueOf(count));
        }
        check(counts.size() == 3 && counts.containsKey(0L), "the brokers are %s", counts.keySet());
        return counts;
    }

    private void arrived(Iterable<MessageExt> messages) {
        for (MessageExt message : messages) {
            arrived.computeIfAbsent(message.getKeys(), key -> new AtomicInteger()).incrementAndGet();
        }
    }

    private void push() throws Exception {
        DefaultMQPushConsumer consumer = harness.consumer("slaves-push", "one", topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            arrived(messages);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
    }

    private void orderly() throws Exception {
        DefaultMQPushConsumer consumer = harness.consumer("slaves-orderly", "one", topic, "*");
        var next = new ConcurrentHashMap<Integer, Long>();
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            for (MessageExt message : messages) {
                long expected = next.merge(message.getQueueId(), 1L, Long::sum) - 1;
                if (message.getQueueOffset() != expected) {
                    harness.mistake("queue " + message.getQueueId() + ": " + message.getQueueOffset() + " instead of " + expected);
                }
            }
            arrived(messages);
            return ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
    }

    private void pull() throws Exception {
        var consumer = new DefaultLitePullConsumer(harness.group("slaves-pull"));
        consumer.setNamesrvAddr(harness.nameServer);
        consumer.setInstanceName(harness.group("slaves-pull"));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.start();
        harness.closeLater(consumer::shutdown);
        until("everything was pulled", 60, () -> {
            arrived(consumer.poll(100));
            return arrived.size() == MESSAGES;
        });
    }
}
