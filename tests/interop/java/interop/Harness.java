package interop;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.function.IntSupplier;
import java.util.function.Supplier;
import java.util.regex.Pattern;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/** Where the servers are, how a scenario fails and waits, and the one line it prints. */
final class Harness {
    /** A scenario; what it returns goes into its line (counts, measured times). */
    interface Scenario {
        String run() throws Exception;
    }

    /** A condition that may throw while the servers are not ready: then it does not hold yet. */
    interface Condition {
        boolean holds() throws Exception;
    }

    final String nameServer;
    /** Label of the client release, part of every topic and group name: releases share a server without meeting. */
    final String release;
    final int messages;
    final DefaultMQAdminExt admin = new DefaultMQAdminExt(10_000);
    private final Pattern only;
    /** Mistakes seen on client threads (a listener's exception would only be redelivered); they fail the scenario. */
    private final List<String> mistakes = new ArrayList<>();
    private final List<Runnable> closing = new ArrayList<>();
    private int producers;
    private int pollMillis = 30_000;
    private final PrintStream lines = System.out;

    Harness(String nameServer, String release, int messages, String only) throws Exception {
        this.nameServer = nameServer;
        this.release = release;
        this.messages = messages;
        this.only = Pattern.compile(only);
        System.setProperty("rocketmq.namesrv.addr", nameServer);
        admin.setNamesrvAddr(nameServer);
        admin.setInstanceName("admin");
        admin.start();
        until("the broker is registered", 60, () -> brokerAddress() != null);
    }

    /** How often clients made from now on ask for routes. */
    void pollRoutesEvery(int millis) {
        pollMillis = millis;
    }

    /** Runs one scenario, closes the clients it opened and prints its line. */
    void scenario(String name, Scenario scenario) {
        String full = System.getProperty("interop.label", "java-" + release) + " " + name;
        if (!only.matcher(full).find()) {
            return;
        }
        long start = System.nanoTime();
        String verdict = "ok  ";
        String detail;
        try {
            detail = scenario.run();
            synchronized (mistakes) {
                check(mistakes.isEmpty(), "%d mistakes, first: %s", mistakes.size(), mistakes.isEmpty() ? "" : mistakes.get(0));
            }
        } catch (Throwable problem) {
            verdict = "FAIL";
            detail = problem instanceof Failure ? problem.getMessage() : problem.toString();
            if (!(problem instanceof Failure)) {
                problem.printStackTrace();
            }
        }
        for (int i = closing.size() - 1; i >= 0; i--) {
            closing.get(i).run();
        }
        closing.clear();
        synchronized (mistakes) {
            mistakes.clear();
        }
        double seconds = (System.nanoTime() - start) / 1e9;
        lines.printf("%s %-58s %6.2f s  %s%n", verdict, full, seconds, detail.replace('\n', ' '));
    }

    /** A check that did not hold. */
    static final class Failure extends RuntimeException {
        Failure(String message) {
            super(message);
        }
    }

    static void check(boolean holds, String message, Object... values) {
        if (!holds) {
            throw new Failure(String.format(message, values));
        }
    }

    /** Fails the running scenario from a client's thread. */
    void mistake(String what) {
        synchronized (mistakes) {
            mistakes.add(what);
        }
    }

    /** The value, or -1 and a mistake of the running scenario: for listeners. */
    int noting(IntSupplier value) {
        try {
            return value.getAsInt();
        } catch (RuntimeException problem) {
            mistake(problem.getMessage() == null ? problem.toString() : problem.getMessage());
            return -1;
        }
    }

    /** Waits for a condition; fails with {@code what} after {@code seconds}. */
    static void until(Supplier<String> what, int seconds, Condition condition) throws InterruptedException {
        long deadline = System.nanoTime() + seconds * 1_000_000_000L;
        Exception last = null;
        while (true) {
            try {
                if (condition.holds()) {
                    return;
                }
            } catch (RuntimeException problem) {
                throw problem;
            } catch (Exception notYet) {
                last = notYet;
            }
            check(System.nanoTime() < deadline, "not within %d s: %s%s", seconds, what.get(), last == null ? "" : " (" + last + ")");
            Thread.sleep(10);
        }
    }

    static void until(String what, int seconds, Condition condition) throws InterruptedException {
        until(() -> what, seconds, condition);
    }

    /** The name as used by this release. */
    String name(String base) {
        return base + "-" + release.replace('.', '_');
    }

    /** A group's name; a suffix tells the groups of a second program on the same directory from those of the first. */
    String group(String base) {
        return name(base) + System.getProperty("interop.suffix", "");
    }

    String brokerAddress() throws Exception {
        var brokers = admin.examineBrokerClusterInfo().getBrokerAddrTable().values();
        return brokers.isEmpty() ? null : brokers.iterator().next().getBrokerAddrs().get(0L);
    }

    /** Brokers that the name servers know. */
    long registered() throws Exception {
        var brokers = admin.examineBrokerClusterInfo().getBrokerAddrTable().values();
        return brokers.stream().mapToLong(broker -> broker.getBrokerAddrs().size()).sum();
    }

    /** Creates a topic through the admin client and waits until the name server routes to it. */
    String topic(String base, int queues) throws Exception {
        String topic = name(base);
        admin.createAndUpdateTopicConfig(brokerAddress(), new TopicConfig(topic, queues, queues, 6));
        until("route of " + topic, 30, () -> queues(topic) == queues);
        return topic;
    }

    /** Number of queues that the name server's route has for the topic. */
    int queues(String topic) throws Exception {
        return admin.examineTopicRouteInfo(topic).getQueueDatas().get(0).getWriteQueueNums();
    }

    /** A started producer with a connection of its own. */
    DefaultMQProducer producer(String base) throws Exception {
        String group = group(base) + "-" + producers++;
        var producer = new DefaultMQProducer(group);
        producer.setNamesrvAddr(nameServer);
        producer.setInstanceName(group);
        producer.setPollNameServerInterval(pollMillis);
        producer.setSendMsgTimeout(10_000);
        // One send is one message: receipts are compared with what consumers see.
        producer.setRetryTimesWhenSendFailed(0);
        producer.setRetryTimesWhenSendAsyncFailed(0);
        producer.start();
        closing.add(producer::shutdown);
        return producer;
    }

    /** A push consumer that starts at the beginning of the topic; {@code member} keeps members of a group apart. */
    DefaultMQPushConsumer consumer(String group, String member, String topic, String tags) throws Exception {
        var consumer = new DefaultMQPushConsumer(group(group));
        consumer.setNamesrvAddr(nameServer);
        consumer.setInstanceName(group(group) + "-" + member);
        consumer.setPollNameServerInterval(pollMillis);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setConsumeThreadMin(4);
        consumer.setConsumeThreadMax(4);
        consumer.subscribe(topic, tags);
        closing.add(consumer::shutdown);
        return consumer;
    }

    /** Queues of the topic that the member pulls from now. */
    static int assigned(DefaultMQPushConsumer consumer, String topic) {
        int count = 0;
        for (MessageQueue queue : consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet()) {
            count += queue.getTopic().equals(topic) ? 1 : 0;
        }
        return count;
    }

    /** Closes something else at the end of the scenario. */
    void closeLater(Runnable close) {
        closing.add(close);
    }

    /** Runs one mqadmin command as its main class does; the answer is everything it printed. */
    String mqadmin(String... words) throws Exception {
        var printed = new ByteArrayOutputStream();
        var before = System.out;
        System.setOut(new PrintStream(printed, true, StandardCharsets.UTF_8));
        try {
            MQAdminStartup.main0(words, null);
        } finally {
            System.setOut(before);
        }
        // Admin clients are named after the current millisecond; the next command must not meet this one's.
        Thread.sleep(2);
        return printed.toString(StandardCharsets.UTF_8);
    }
}
