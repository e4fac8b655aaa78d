package interop;

import static interop.Harness.check;
import static interop.Harness.until;

import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.common.BrokerConfig;
import org.apache.rocketmq.common.UtilAll;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.sysflag.MessageSysFlag;
import org.apache.rocketmq.store.DefaultMessageStore;
import org.apache.rocketmq.store.GetMessageStatus;
import org.apache.rocketmq.store.config.MessageStoreConfig;
import org.apache.rocketmq.store.stats.BrokerStatsManager;

/**
 * RocketMQ's own store reads every message of a directory that another server wrote.
 *
 * {@code OfficialStore DIRECTORY RECEIPTS NUMBER_AT_LIMIT HA_PORT}: the directory is opened (and so recovered and changed: give a
 * copy); every message of every queue must decode with a right body CRC; every receipt must name a message with that content.
 */
final class OfficialStore {
    private OfficialStore() {}

    public static void main(String[] arguments) {
        int status = 0;
        try {
            System.out.println(read(arguments[0], Path.of(arguments[1]), Integer.parseInt(arguments[2]), Integer.parseInt(arguments[3])));
        } catch (Throwable problem) {
            problem.printStackTrace();
            System.out.println(problem);
            status = 1;
        }
        System.exit(status);
    }

    private static String read(String directory, Path receipts, int atLimit, int haPort) throws Exception {
        var corpora = corpora(receipts, atLimit);
        var config = new MessageStoreConfig();
        config.setStorePathRootDir(directory);
        config.setStorePathCommitLog(directory + "/commitlog");
        config.setHaListenPort(haPort);
        boolean killed = Files.exists(Path.of(directory, "abort"));
        var store = new DefaultMessageStore(config, new BrokerStatsManager("DefaultCluster", false),
                (topic, queue, offset, tagsCode, time, filter, properties) -> { }, new BrokerConfig(), new ConcurrentHashMap<>());
        check(store.load(), "the store refuses the directory");
        store.start();
        until("the store has dispatched everything", 60, () -> store.dispatchBehindBytes() == 0);
        int messages = 0;
        int queues = 0;
        int compared = 0;
        int compressed = 0;
        for (var topic : store.getConsumeQueueTable().entrySet()) {
            Corpus corpus = corpora.get(topic.getKey());
            for (int queue : topic.getValue().keySet()) {
                queues++;
                long end = store.getMaxOffsetInQueue(topic.getKey(), queue);
                for (long next = store.getMinOffsetInQueue(topic.getKey(), queue); next < end;) {
                    var result = store.getMessage("reader", topic.getKey(), queue, next, 32, null);
                    check(result.getStatus() == GetMessageStatus.FOUND, "%s queue %d at %d: %s", topic.getKey(), queue, next, result.getStatus());
                    for (ByteBuffer bytes : result.getMessageBufferList()) {
                        MessageExt raw = MessageDecoder.decode(bytes.duplicate(), true, false);
                        check(raw.getBodyCRC() == UtilAll.crc32(raw.getBody()), "%s queue %d at %d: body CRC", topic.getKey(), queue, next);
                        check(raw.getQueueOffset() == next, "%s queue %d: %d where %d is due", topic.getKey(), queue, raw.getQueueOffset(), next);
                        if (corpus != null) {
                            MessageExt unpacked = MessageDecoder.decode(bytes.duplicate(), true, true);
                            int n = corpus.verifyPlace(unpacked);
                            boolean flagged = (raw.getSysFlag() & MessageSysFlag.COMPRESSED_FLAG) != 0;
                            check(flagged == Corpus.compressed(n, unpacked), "%d: the record's compression flag is %b", n, flagged);
                            compressed += flagged ? 1 : 0;
                            compared += corpus.receipts.remove(n) == null ? 0 : 1;
                        }
                        next++;
                        messages++;
                    }
                    result.release();
                }
            }
        }
        for (Corpus corpus : corpora.values()) {
            check(corpus.receipts.isEmpty(), "%d acknowledged messages of %s are not there, one is number %s", corpus.receipts.size(), corpus.topic,
                    corpus.receipts.keySet().stream().findFirst().orElse(-1));
        }
        store.shutdown();
        return messages + " messages in " + queues + " queues read, " + compared + " of them compared with what was acknowledged, " + compressed + " compressed by the client"
                + (killed ? ", after an unclean end" : "");
    }

    private static Map<String, Corpus> corpora(Path receipts, int atLimit) throws Exception {
        var corpora = new HashMap<String, Corpus>();
        for (String line : Files.readAllLines(receipts)) {
            String[] words = line.split("\t");
            Corpus corpus = corpora.computeIfAbsent(words[0], Corpus::new);
            corpus.atLimit = atLimit;
            corpus.receipts.put(Integer.parseInt(words[3]), new long[] {Long.parseLong(words[1]), Long.parseLong(words[2])});
        }
        check(!corpora.isEmpty(), "no receipts in %s", receipts);
        return corpora;
    }
}
