package interop;

import static interop.Harness.check;
import static interop.Harness.until;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Random;
import java.util.concurrent.TimeUnit;

/**
 * The broker dies under load, again and again, and must owe nobody anything.
 *
 * {@code Kills NAME_SERVER BROKER_PORT SEED KILLS STOPS RECEIPTS LOG SERVER_COMMAND VERIFY_COMMAND}: starts the server by its
 * command (a shell line that execs it), loads it with one producer thread a queue and one push consumer, ends it with SIGKILL or
 * SIGTERM at random points, runs the verify command on what it left, starts it again.
 */
final class Kills {
    private final Server server;
    private final Load load;
    private final Load.Group group;
    private final Random random;
    private final File log;
    private final String verifyCommand;
    /** The most messages of one queue that a member would get again after an ending, had it started anew. */
    private long lostProgress;

    private Kills(Harness harness, Server server, long seed, File log, String verifyCommand) throws Exception {
        this.server = server;
        this.random = new Random(seed);
        this.log = log;
        this.verifyCommand = verifyCommand;
        this.load = new Load(harness, "kills");
        this.group = load.new Group("killed", false, Load.QUEUES);
    }

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[1]);
        long seed = Long.parseLong(arguments[2]);
        int kills = Integer.parseInt(arguments[3]);
        int stops = Integer.parseInt(arguments[4]);
        var log = new File(arguments[6]);
        var server = new Server(port, arguments[7], log);
        try {
            server.start();
            var harness = new Harness(arguments[0], "5.4.0", 0, ".");
            var test = new Kills(harness, server, seed, log, arguments[8]);
            harness.scenario("kills: " + kills + " kill -9 and " + stops + " stops, seed " + seed, () -> {
                try {
                    return test.run(kills, stops);
                } finally {
                    test.load.stopProducing();
                    Receipts.write(arguments[5], test.load.corpus);
                    server.end(true);
                }
            });
        } finally {
            server.end(true);
        }
        System.exit(42);
    }

    private String run(int kills, int stops) throws Exception {
        group.start();
        load.produce("killed-sender", 0);
        var endings = new ArrayList<Boolean>(Collections.nCopies(kills, true));
        endings.addAll(Collections.nCopies(stops, false));
        Collections.shuffle(endings, random);
        long restarts = 0;
        for (boolean kill : endings) {
            letItRun();
            // Sometimes nobody is there to remind the broker of the group's progress: the next member depends on what it stored.
            boolean absent = random.nextInt(4) == 0;
            if (absent) {
                System.err.println("nobody consumes");
                group.stop();
            }
            long start = System.nanoTime();
            end(kill);
            restarts += System.nanoTime() - start;
            if (absent) {
                group.start();
            }
        }
        letItRun();
        load.stopProducing();
        until(group::missing, 90, () -> group.missing() == null);
        until("every offset is stored", 20, () -> {
            group.persist();
            return Arrays.equals(group.stored(), group.consumed());
        });
        // What a clean stop stored, a kill after it must not lose.
        end(false);
        end(true);
        check(Arrays.equals(group.stored(), group.consumed()), "stored offsets %s, consumed %s", Arrays.toString(group.stored()),
                Arrays.toString(group.consumed()));
        return String.format("%d acknowledged and consumed, %d deliveries repeated, %d consumer restarts, a kill lost progress of %d at most, "
                + "%d ms from signal to serving", load.acknowledged.get(), group.repeated, group.members - 1, lostProgress,
                endings.isEmpty() ? 0 : restarts / endings.size() / 1_000_000);
    }

    /** Waits for some progress of both sides since the last start, then for a moment that has nothing to do with it. */
    private void letItRun() throws Exception {
        long sent = load.acknowledged.get() + 20 + random.nextInt(600);
        until(() -> "the producers make progress: " + load.acknowledged + " of " + sent, 60, () -> load.acknowledged.get() >= sent);
        long seen = group.total() + 1 + random.nextInt(200);
        until(() -> "the consumer makes progress to " + seen, 60, () -> group.total() >= seen);
        TimeUnit.MICROSECONDS.sleep(random.nextInt(300_000));
    }

    /** Ends the server, looks at what it left, starts it, and compares the progress it remembers. */
    private void end(boolean kill) throws Exception {
        long[] before = kill ? new long[Load.QUEUES] : group.stored();
        server.end(kill);
        Process verify = Server.launch(verifyCommand, log);
        check(verify.waitFor(60, TimeUnit.SECONDS) && verify.exitValue() == 0, "store verify: status %d", verify.exitValue());
        server.start();
        long[] stored = group.stored();
        long[] now = group.consumed();
        System.err.printf("%s: stored %s, consumed %s, acknowledged %d%n", kill ? "killed" : "stopped", Arrays.toString(stored),
                Arrays.toString(now), load.acknowledged.get());
        for (int queue = 0; queue < Load.QUEUES; queue++) {
            check(stored[queue] <= now[queue], "queue %d: stored offset %d, but only %d were consumed", queue, stored[queue], now[queue]);
            lostProgress = Math.max(lostProgress, now[queue] - stored[queue]);
            check(stored[queue] >= before[queue], "queue %d: stored offset %d was %d before a clean stop", queue, stored[queue], before[queue]);
        }
    }
}
