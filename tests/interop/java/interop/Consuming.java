package interop;

import static interop.Harness.check;
import static interop.Harness.until;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** Every way to consume. Whole-corpus scenarios read what {@link Sending} stored; the others have topics of their own. */
final class Consuming {
    private final Harness harness;
    private final Sending sending;

    Consuming(Harness harness, Sending sending) {
        this.harness = harness;
        this.sending = sending;
    }

    void scenarios() {
        harness.scenario("consume: classic pull", this::classicPull);
        harness.scenario("consume: lite pull", this::litePull);
        harness.scenario("consume: lite pull, assigned, from a seek", this::litePullAssigned);
        harness.scenario("consume: push", this::push);
        harness.scenario("consume: push, tag filter", this::tagFilter);
        harness.scenario("consume: push, broadcasting", this::broadcasting);
        harness.scenario("consume: push, orderly, two members", this::orderly);
        if (System.getProperty("interop.suffix", "").startsWith("-")) {
            harness.scenario("directory: a group's progress is kept", this::keptProgress);
        }
        harness.scenario("group: a member joins and leaves", this::clustering);
        harness.scenario("group: offsets resume after a restart", this::resume);
        harness.scenario("group: a held poll is answered at once", this::heldPoll);
    }

    private Tally tally() throws Exception {
        return new Tally(harness, sending.filled(), sending.total());
    }

    /** Every queue read from its minimum to its maximum, offsets without gap, offsets stored and read back. */
    @SuppressWarnings("deprecation")
    private String classicPull() throws Exception {
        var tally = tally();
        var consumer = new DefaultMQPullConsumer(harness.group("classic"));
        consumer.setNamesrvAddr(harness.nameServer);
        consumer.setInstanceName(harness.group("classic"));
        consumer.start();
        harness.closeLater(consumer::shutdown);
        for (MessageQueue queue : consumer.fetchSubscribeMessageQueues(sending.corpus.topic)) {
            long end = consumer.maxOffset(queue);
            long next = consumer.minOffset(queue);
            check(next == 0, "%s starts at %d", queue, next);
            while (next < end) {
                PullResult pulled = consumer.pull(queue, "*", next, 32, 10_000);
                check(pulled.getPullStatus() == PullStatus.FOUND, "%s at %d: %s", queue, next, pulled);
                for (var message : pulled.getMsgFoundList()) {
                    check(message.getQueueOffset() == next, "%s: offset %d follows %d", queue, message.getQueueOffset(), next - 1);
                    next++;
                }
                check(pulled.getNextBeginOffset() == next && pulled.getMaxOffset() == end, "%s at %d: %s", queue, next, pulled);
                tally.arrived(pulled.getMsgFoundList());
            }
            check(consumer.pull(queue, "*", end, 32, 10_000).getPullStatus() == PullStatus.NO_NEW_MSG, "something after the end");
            PullResult beyond = consumer.pull(queue, "*", end + 5, 32, 10_000);
            check(beyond.getPullStatus() == PullStatus.OFFSET_ILLEGAL && beyond.getNextBeginOffset() == end, "beyond the end: %s", beyond);
            long middle = end / 2;
            PullResult one = consumer.pull(queue, "*", middle, 1, 10_000);
            long stored = one.getMsgFoundList().get(0).getStoreTimestamp();
            long found = consumer.searchOffset(queue, stored);
            check(found <= middle, "%s: the message at %d was stored at %d, the search says %d", queue, middle, stored, found);
            if (found > 0) {
                var before = consumer.pull(queue, "*", found - 1, 1, 10_000).getMsgFoundList().get(0);
                check(before.getStoreTimestamp() < stored, "%s: offset %d is as old as the searched time", queue, found - 1);
            }
            consumer.updateConsumeOffset(queue, end);
        }
        consumer.getOffsetStore().persistAll(consumer.fetchSubscribeMessageQueues(sending.corpus.topic));
        tally.complete(0);
        tally.once();
        return sending.total() + " messages, minima, maxima, times and refusals";
    }

    private DefaultLitePullConsumer lite(String group) {
        var consumer = new DefaultLitePullConsumer(harness.group(group));
        consumer.setNamesrvAddr(harness.nameServer);
        consumer.setInstanceName(harness.group(group));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        harness.closeLater(consumer::shutdown);
        return consumer;
    }

    private void poll(DefaultLitePullConsumer consumer, Tally tally, int seconds) throws Exception {
        long start = System.nanoTime();
        while (tally.distinct() < sending.total() && System.nanoTime() - start < seconds * 1_000_000_000L) {
            tally.arrived(consumer.poll(100));
        }
        tally.complete(0);
    }

    private String litePull() throws Exception {
        var tally = tally();
        var consumer = lite("lite");
        consumer.subscribe(sending.corpus.topic, "*");
        long start = System.nanoTime();
        consumer.start();
        tally.arrived(consumer.poll(15_000));
        double first = (System.nanoTime() - start) / 1e9;
        check(tally.distinct() > 0 && first < 10, "the first messages took %.1f s: nobody told the member that it joined", first);
        poll(consumer, tally, 60);
        tally.once();
        return String.format("%d messages, the first after %.2f s", sending.total(), first);
    }

    private String litePullAssigned() throws Exception {
        var tally = tally();
        var consumer = lite("assigned");
        consumer.setAutoCommit(false);
        consumer.start();
        var queues = consumer.fetchMessageQueues(sending.corpus.topic);
        consumer.assign(queues);
        poll(consumer, tally, 60);
        tally.once();
        // The client forgets a seek that meets a pull which is about to begin: the old pull takes the position and
        // gives up. With everything read, all pulls wait at the broker.
        check(consumer.poll(1000).isEmpty(), "more came after the last message");
        var again = tally();
        for (var queue : queues) {
            consumer.seek(queue, 0);
        }
        poll(consumer, again, 60);
        again.once();
        return sending.total() + " messages, and again from the seek";
    }

    private String push() throws Exception {
        var tally = tally();
        var consumer = harness.consumer("push", "a", sending.corpus.topic, "*");
        tally.listen(consumer);
        consumer.start();
        tally.complete(60);
        tally.once();
        return sending.total() + " messages, each once";
    }

    /** The program that wrote the directory had consumed everything as this group. */
    private String keptProgress() throws Exception {
        String group = harness.name("push");
        long progress = 0;
        for (var queue : harness.admin.examineConsumeStats(group, sending.corpus.topic).getOffsetTable().values()) {
            check(queue.getConsumerOffset() == queue.getBrokerOffset(), "stored progress %d of %d", queue.getConsumerOffset(), queue.getBrokerOffset());
            progress += queue.getConsumerOffset();
        }
        check(progress == sending.total(), "progress is %d of %d", progress, sending.total());
        return group + " has consumed " + progress;
    }

    private String tagFilter() throws Exception {
        var tally = tally();
        var consumer = harness.consumer("tags", "a", sending.corpus.topic, "tag1 || tag3");
        tally.listen(consumer);
        consumer.start();
        tally.complete(60, n -> "tag1".equals(Corpus.tag(n)) || "tag3".equals(Corpus.tag(n)));
        return tally.distinct() + " of " + sending.total() + " messages match";
    }

    private String broadcasting() throws Exception {
        var tallies = new Tally[] {tally(), tally()};
        for (int member = 0; member < 2; member++) {
            var consumer = harness.consumer("broadcast", "m" + member, sending.corpus.topic, "*");
            // The enum's package moved between the releases, so it is not named.
            var clustering = consumer.getMessageModel();
            consumer.setMessageModel(Enum.valueOf(clustering.getDeclaringClass(), "BROADCASTING"));
            tallies[member].listen(consumer);
            consumer.start();
        }
        for (Tally tally : tallies) {
            tally.complete(60);
            tally.once();
        }
        return sending.total() + " messages to each of 2 members";
    }

    private String orderly() throws Exception {
        var tally = tally();
        var per = new AtomicInteger[] {new AtomicInteger(), new AtomicInteger()};
        for (int member = 0; member < 2; member++) {
            int number = member;
            var consumer = harness.consumer("orderly", "m" + member, sending.corpus.topic, "*");
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                tally.arrivedInOrder(messages);
                per[number].addAndGet(messages.size());
                return ConsumeOrderlyStatus.SUCCESS;
            });
            consumer.start();
        }
        tally.complete(90);
        return sending.total() + " messages, every queue in order, members had " + per[0] + " and " + per[1];
    }

    private String clustering() throws Exception {
        var corpus = new Corpus(harness.topic("members", 8));
        int first = 2_000;
        int all = 2_500;
        var tally = new Tally(harness, corpus, all);
        var a = harness.consumer("members", "a", corpus.topic, "*");
        var b = harness.consumer("members", "b", corpus.topic, "*");
        var had = new ConcurrentHashMap<String, Integer>();
        for (var member : Map.of("a", a, "b", b).entrySet()) {
            // 5.4.0 gives its subscription a new version when its queues change, and skips the heartbeat that would say so when
            // another thread just sends one. Its pulls are refused as not latest then, by RocketMQ too, until the next heartbeat.
            member.getValue().setHeartbeatBrokerInterval(5_000);
            member.getValue().registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                tally.arrived(messages);
                had.merge(member.getKey(), messages.size(), Integer::sum);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        }
        a.start();
        until("the first member has all queues", 15, () -> Harness.assigned(a, corpus.topic) == 8);
        long joining = System.nanoTime();
        b.start();
        until("the members share the queues", 15, () -> Harness.assigned(a, corpus.topic) == 4 && Harness.assigned(b, corpus.topic) == 4);
        double joined = (System.nanoTime() - joining) / 1e9;
        Sending.fill(harness, corpus, 0, first);
        tally.complete(30, n -> n < first);
        check(had.size() == 2, "only %s had messages", had);
        var shared = new HashMap<>(had);
        long leaving = System.nanoTime();
        b.shutdown();
        until("the first member has all queues again", 15, () -> Harness.assigned(a, corpus.topic) == 8);
        double left = (System.nanoTime() - leaving) / 1e9;
        Sending.fill(harness, corpus, first, all);
        tally.complete(30);
        return String.format("%d messages, shared %s, queues moved %.2f s after the join and %.2f s after the leave", all, shared, joined, left);
    }

    private String resume() throws Exception {
        var corpus = new Corpus(harness.topic("resume", 4));
        int first = 1_000;
        int all = 1_200;
        Sending.fill(harness, corpus, 0, first);
        var before = new Tally(harness, corpus, all);
        var consumer = harness.consumer("resume", "a", corpus.topic, "*");
        before.listen(consumer);
        consumer.start();
        before.complete(30, n -> n < first);
        // Progress must be complete in the client before it is stored by the shutdown.
        until("nothing is in progress", 10, () -> consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable()
                .values().stream().allMatch(queue -> queue.getMsgCount().get() == 0));
        consumer.shutdown();
        Sending.fill(harness, corpus, first, all);
        var after = new Tally(harness, corpus, all);
        var again = harness.consumer("resume", "again", corpus.topic, "*");
        again.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET);
        after.listen(again);
        again.start();
        after.complete(40, n -> n >= first);
        after.once();
        return first + " messages, then only the " + (all - first) + " new ones";
    }

    /** Sent one by one to a waiting consumer: each arrives long before the 15 s for which its pull is held. */
    private String heldPoll() throws Exception {
        String topic = harness.topic("held", 1);
        var arrived = new ArrayList<CountDownLatch>();
        int count = 30;
        for (int i = 0; i < count; i++) {
            arrived.add(new CountDownLatch(1));
        }
        var consumer = harness.consumer("held", "a", topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message -> arrived.get(message.getBody()[0]).countDown());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        until("queues are assigned", 15, () -> Harness.assigned(consumer, topic) == 1);
        var producer = harness.producer("held-sender");
        var latencies = new long[count];
        for (int i = 0; i < count; i++) {
            long start = System.nanoTime();
            producer.send(new Message(topic, new byte[] {(byte) i}));
            check(arrived.get(i).await(20, TimeUnit.SECONDS), "message %d did not arrive in 20 s", i);
            latencies[i] = System.nanoTime() - start;
        }
        java.util.Arrays.sort(latencies);
        double median = latencies[count / 2] / 1e6;
        check(median < 200, "the median from send to listener was %.0f ms", median);
        return String.format("send to listener: median %.2f ms, worst %.2f ms", median, latencies[count - 1] / 1e6);
    }
}
