package interop;

import static interop.Harness.check;
import static interop.Harness.until;

import java.util.Arrays;
import java.util.Set;
import java.util.regex.Pattern;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** mqadmin, run as its users run it. Its exit status is 0 whatever happens, so the text is checked. */
final class Administering {
    private final Harness harness;
    private Corpus corpus;
    private SendResult sample;

    Administering(Harness harness) {
        this.harness = harness;
    }

    void scenarios() {
        harness.scenario("admin: message viewed by its id", this::view);
        harness.scenario("admin: clusterList", () -> says("DefaultCluster +broker-a +0 +" + harness.brokerAddress(), "clusterList"));
        harness.scenario("admin: brokerStatus", () -> says("(?s)brokerVersionDesc.*putTps", "brokerStatus", "-b", harness.brokerAddress()));
        harness.scenario("admin: topicList", () -> says(topic(), "topicList"));
        harness.scenario("admin: topicRoute", () -> says("(?s)" + harness.brokerAddress() + ".*\"writeQueueNums\": ?3", "topicRoute", "-t", topic()));
        harness.scenario("admin: topicStatus", () -> says("broker-a +2 +0 +40 ", "topicStatus", "-t", topic()));
        harness.scenario("admin: queryMsgById", this::queryById);
        harness.scenario("admin: printMsg", this::print);
        harness.scenario("admin: consumerProgress", this::progress);
        harness.scenario("admin: consumerConnection", this::connections);
        harness.scenario("admin: brokerConsumeStats", () -> says("(?s)" + topic() + " +" + harness.name("progress") + " +broker-a +[0-2] +40 +40 +0 ",
                "brokerConsumeStats", "-b", harness.brokerAddress()));
        harness.scenario("admin: members say how far they are", this::status);
        if (!harness.release.startsWith("4.")) {
            harness.scenario("admin: producer", this::producers);
        }
        harness.scenario("admin: cleanExpiredCQ", () -> says("(?i)success", "cleanExpiredCQ", "-b", harness.brokerAddress()));
        harness.scenario("admin: queryCq", () -> says("(?s)max: 40, min: 0.*idx: 39", "queryCq", "-t", topic(), "-q", "1", "-i", "38", "-c", "10", "-b", harness.brokerAddress()));
        harness.scenario("admin: what a group reads and has read", this::group);
        harness.scenario("admin: updateTopic widens a topic", this::widen);
        harness.scenario("admin: deleteTopic", this::delete);
    }

    /** A topic of 3 queues with 40 messages in each. */
    private String topic() throws Exception {
        if (corpus == null) {
            corpus = new Corpus(harness.topic("admin", 3));
            var producer = harness.producer("admin-sender");
            for (int n = 0; n < 120; n++) {
                sample = producer.send(corpus.message(n), new MessageQueue(corpus.topic, "broker-a", n % 3));
                corpus.sent(n, 1, sample);
            }
        }
        return corpus.topic;
    }

    private SendResult sample() throws Exception {
        topic();
        return sample;
    }

    private String mqadmin(String... words) throws Exception {
        var all = Arrays.copyOf(words, words.length + 2);
        all[words.length] = "-n";
        all[words.length + 1] = harness.nameServer;
        return harness.mqadmin(all);
    }

    /** Runs a command; its text must match. */
    private String says(String pattern, String... words) throws Exception {
        String said = mqadmin(words);
        check(Pattern.compile(pattern).matcher(said).find(), "/%s/ is not in: %s", pattern, said);
        return said.lines().count() + " lines";
    }

    private String view() throws Exception {
        MessageExt seen = harness.admin.viewMessage(topic(), sample().getOffsetMsgId());
        check(corpus.verifyPlace(seen) == 119, "number %s", seen.getUserProperty("n"));
        return "topic, body, tag, keys and properties as sent";
    }

    private String queryById() throws Exception {
        String pattern = "(?s)Topic: +" + topic() + ".*Queue Offset: +" + sample().getQueueOffset();
        String id = sample().getOffsetMsgId();
        // The old release does not know -t, the new one insists on it.
        return harness.release.startsWith("4.") ? says(pattern, "queryMsgById", "-i", id)
                : says(pattern, "queryMsgById", "-i", id, "-t", topic());
    }

    private String print() throws Exception {
        String said = mqadmin("printMsg", "-t", topic(), "-d", "false");
        long count = said.lines().filter(line -> line.startsWith("MSGID:")).count();
        check(count == 120, "%d messages in: %s", count, said);
        return count + " messages";
    }

    private String progress() throws Exception {
        topic();
        var tally = new Tally(harness, corpus, 120);
        var consumer = harness.consumer("progress", "a", corpus.topic, "*");
        tally.listen(consumer);
        consumer.start();
        tally.complete(30);
        consumer.getDefaultMQPushConsumerImpl().persistConsumerOffset();
        until("the progress is complete", 20, () -> mqadmin("consumerProgress", "-g", harness.name("progress")).matches("(?s).*Diff Total: 0\\b.*"));
        return says("(?s)" + corpus.topic + " +broker-a +[0-2] +40 +40 .*Diff Total: 0", "consumerProgress", "-g", harness.name("progress"));
    }

    private String producers() throws Exception {
        harness.producer("seen").send(new Corpus(harness.name("seen")).message(0));
        return says("producer group \\(" + harness.name("seen") + "-\\d+\\) instance : ", "producer", "-b", harness.brokerAddress());
    }

    private String status() throws Exception {
        topic();
        var consumer = harness.consumer("status", "a", corpus.topic, "*");
        var tally = new Tally(harness, corpus, 120);
        tally.listen(consumer);
        consumer.start();
        tally.complete(30);
        until("the member's own offsets", 20, () -> {
            var offsets = harness.admin.getConsumeStatus(corpus.topic, harness.name("status"), "").values();
            return offsets.size() == 1 && offsets.iterator().next().values().stream().mapToLong(Long::longValue).sum() == 120;
        });
        return "120 in 3 queues";
    }

    private String connections() throws Exception {
        topic();
        var consumer = harness.consumer("connected", "a", corpus.topic, "tag1");
        new Tally(harness, corpus, 120).listen(consumer);
        consumer.start();
        if (!harness.release.startsWith("4.")) {
            String subscription = asked("querySubscription", harness.name("connected"), topic()).toString();
            check(subscription.contains("subString=tag1,"), "subscription %s", subscription);
        }
        return says("(?s)" + harness.name("connected") + "-a.*" + corpus.topic + " +tag1.*CONSUME_FROM_FIRST_OFFSET",
                "consumerConnection", "-g", harness.name("connected"));
    }

    private String group() throws Exception {
        String reader = harness.name("progress");
        String clone = harness.group("cloned");
        if (!harness.release.startsWith("4.")) {
            Object topics = asked("queryTopicsByConsumer", reader);
            var names = (Set<?>) topics.getClass().getMethod("getTopicList").invoke(topics);
            check(names.contains(topic()), "%s reads %s", reader, names);
        }
        var spans = harness.admin.queryConsumeTimeSpan(topic(), reader);
        check(spans.size() == 3, "%d time spans", spans.size());
        for (var span : spans) {
            check(span.getMinTimeStamp() <= span.getConsumeTimeStamp() && span.getConsumeTimeStamp() <= span.getMaxTimeStamp(),
                    "read up to %d of %d to %d", span.getConsumeTimeStamp(), span.getMinTimeStamp(), span.getMaxTimeStamp());
        }
        harness.admin.cloneGroupOffset(reader, clone, topic(), true);
        var consumer = new DefaultMQPullConsumer(clone);
        consumer.setNamesrvAddr(harness.nameServer);
        consumer.setInstanceName(clone);
        harness.closeLater(consumer::shutdown);
        consumer.start();
        for (var queue : consumer.fetchSubscribeMessageQueues(topic())) {
            check(consumer.fetchConsumeOffset(queue, true) == 40, "the clone is not at 40 in %s", queue);
        }
        return "topics, subscription, 3 time spans, 3 offsets cloned";
    }

    /** What the old release does not offer, so that it cannot be compiled there. */
    private Object asked(String method, String... words) throws Exception {
        var types = new Class<?>[words.length];
        Arrays.fill(types, String.class);
        return harness.admin.getClass().getMethod(method, types).invoke(harness.admin, (Object[]) words);
    }

    private String widen() throws Exception {
        says("success", "updateTopic", "-b", harness.brokerAddress(), "-t", topic(), "-r", "5", "-w", "5");
        until("5 queues in the route", 30, () -> harness.queues(topic()) == 5);
        check(harness.admin.viewMessage(topic(), sample().getOffsetMsgId()) != null, "the message is gone");
        return "3 to 5 queues";
    }

    private String delete() throws Exception {
        says("success", "deleteTopic", "-c", "DefaultCluster", "-t", topic());
        until("no route", 30, () -> !mqadmin("topicList").contains(topic()));
        String topic = topic();
        corpus = null;
        harness.topic("admin", 3);
        var offset = harness.producer("admin-again").send(new Corpus(topic).message(0)).getQueueOffset();
        return "gone; made again, its first message has offset " + offset;
    }
}
