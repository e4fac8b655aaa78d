package interop;

import static interop.Harness.check;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Messages whose content follows from topic and number, so that sender and consumer need nothing from each other.
 * A message carries its number as the user property {@code n}.
 */
final class Corpus {
    /** The client's and the broker's limit of a body. */
    static final int BODY_LIMIT = 4 * 1024 * 1024;

    final String topic;
    /** Where the broker said a message went: number to {queue id, queue offset}. One-way messages have no entry. */
    final Map<Integer, long[]> receipts = new ConcurrentHashMap<>();
    /** The message of this number has a body at the limit; no such message if negative. */
    int atLimit = -1;

    Corpus(String topic) {
        this.topic = topic;
    }

    /** Compressed by the client when sent alone: text over 4 KiB. */
    static boolean compressible(int n) {
        return n % 100 == 7;
    }

    static String tag(int n) {
        return n % 3 == 0 ? null : "tag" + n % 4;
    }

    byte[] body(int n) {
        var random = new SplittableRandom(n * 31L + 7);
        if (n == atLimit) {
            byte[] body = new byte[BODY_LIMIT];
            fill(random, body);
            return body;
        }
        if (compressible(n)) {
            byte[] body = new byte[5_000 + random.nextInt(15_000)];
            Arrays.fill(body, (byte) ('a' + n % 26));
            body[random.nextInt(body.length)] = '!';
            return body;
        }
        byte[] body = new byte[1 + random.nextInt(1_024)];
        fill(random, body);
        return body;
    }

    /** {@code SplittableRandom.nextBytes} is Java 10; its result is not the same everywhere, this is. */
    private static void fill(SplittableRandom random, byte[] body) {
        for (int i = 0; i < body.length; i += 8) {
            long word = random.nextLong();
            for (int j = i; j < Math.min(i + 8, body.length); j++, word >>= 8) {
                body[j] = (byte) word;
            }
        }
    }

    Map<String, String> properties(int n) {
        var properties = new HashMap<String, String>();
        properties.put("n", Integer.toString(n));
        properties.put("note", "grün " + n + " 漢字 €");
        if (n % 5 == 0) {
            properties.put("long", "x".repeat(n % 500 + 1));
        }
        return properties;
    }

    static String keys(int n) {
        return n % 2 == 0 ? null : n % 4 == 1 ? "key" + n : "key" + n + " second" + n;
    }

    Message message(int n) {
        var message = new Message(topic, tag(n), keys(n), body(n));
        message.setFlag(n);
        properties(n).forEach(message::putUserProperty);
        return message;
    }

    /** Consecutive messages for one batch. They say so, because the client compresses none of a batch. */
    List<Message> batch(int first, int count) {
        var messages = new ArrayList<Message>();
        for (int n = first; n < first + count; n++) {
            var message = message(n);
            message.putUserProperty("batch", "yes");
            messages.add(message);
        }
        return messages;
    }

    /** Whether the client compressed the message of this number, as it arrived. */
    static boolean compressed(int n, MessageExt got) {
        return compressible(n) && got.getUserProperty("batch") == null;
    }

    /** Remembers where a send went; a batch of consecutive numbers has one result with the first offset. */
    void sent(int first, int count, SendResult result) {
        check(result.getSendStatus() == SendStatus.SEND_OK, "send %d: %s", first, result);
        for (int i = 0; i < count; i++) {
            receipts.put(first + i, new long[] {result.getMessageQueue().getQueueId(), result.getQueueOffset() + i});
        }
    }

    /** Compares a consumed message with what was sent; its number, or a failure that names the difference. */
    int verify(MessageExt got) {
        String number = got.getUserProperty("n");
        check(number != null, "message %s without its property n", got.getMsgId());
        int n = Integer.parseInt(number);
        check(got.getTopic().equals(topic), "%d: topic %s, expected %s", n, got.getTopic(), topic);
        check(Arrays.equals(got.getBody(), body(n)), "%d: body of %d bytes differs from the one of %d sent", n,
                got.getBody().length, body(n).length);
        // The client clears the flag as it unpacks; the record stays smaller than the body.
        check((got.getStoreSize() < got.getBody().length) == compressed(n, got), "%d: body of %d bytes stored in %d", n, got.getBody().length,
                got.getStoreSize());
        check(Objects.equals(got.getTags(), tag(n)), "%d: tag %s, expected %s", n, got.getTags(), tag(n));
        check(Objects.equals(got.getKeys(), keys(n)), "%d: keys %s, expected %s", n, got.getKeys(), keys(n));
        check(got.getFlag() == n, "%d: flag %d", n, got.getFlag());
        properties(n).forEach((name, value) -> check(value.equals(got.getUserProperty(name)), "%d: property %s is %s, expected %s",
                n, name, got.getUserProperty(name), value));
        return n;
    }

    /** As {@link #verify}, and the place must be the one in the send's receipt. */
    int verifyPlace(MessageExt got) {
        int n = verify(got);
        long[] place = receipts.get(n);
        check(place == null || place[0] == got.getQueueId() && place[1] == got.getQueueOffset(), "%d: queue %d offset %d, receipt %s",
                n, got.getQueueId(), got.getQueueOffset(), Arrays.toString(place));
        return n;
    }
}
